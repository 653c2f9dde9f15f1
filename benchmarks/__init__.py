"""Measurements, run from a checkout: side by side with TRL, audit validation, the results page, pretraining."""
