"""Probes of how far data and models can be trusted, one per file; each returns a typed result."""
