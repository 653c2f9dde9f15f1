"""Answers to people and programs: the Python API, the HTTP API and the reader page."""
