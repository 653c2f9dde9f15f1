"""Audit of a data set: what its questions give away without the images."""
