"""Readers of the supported formats: they find the files of a source and parse its rows. `importing` does the rest."""
