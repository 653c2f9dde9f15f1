"""Import a downloaded source into a data folder: find rows and images, convert, write, report."""
