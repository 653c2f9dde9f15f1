"""Measurements side by side with plain TRL."""
