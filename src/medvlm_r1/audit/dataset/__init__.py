"""The audit of a data set: what its questions reveal without the images."""
