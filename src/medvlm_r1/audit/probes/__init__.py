"""The probes of a model, one per file."""
