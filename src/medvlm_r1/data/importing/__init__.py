"""From a source as it was downloaded to a data folder: find rows and images, convert, write, report."""
