"""Answer questions with a model: the Python API and the reader page."""
