"""Probes of a model audit, and the parts of the reasoning probe, in one module each."""
