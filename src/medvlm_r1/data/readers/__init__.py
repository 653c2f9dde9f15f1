"""Readers, one file per public format: where its files are and what a row means. `importing` does the rest."""
