"""One small file per public format, each saying where the files lie and how a row maps; `importing` does the rest."""
