"""Evaluation: generate answers into a resumable store, score them, and compare two evaluations item by item."""
