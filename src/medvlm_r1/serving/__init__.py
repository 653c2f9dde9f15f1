"""Answers for people and programs: the Python API and the reader page."""
