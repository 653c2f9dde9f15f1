"""Audit of a data set: how many of its questions can be answered without the images."""
