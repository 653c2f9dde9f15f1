"""MedVLM-R1."""
