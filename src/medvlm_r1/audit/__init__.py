"""Audits of data sets and models: probes, runner and verdicts."""
