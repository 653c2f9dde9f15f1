"""Atomic checkpoints, resuming, the NaN guard, interrupts, and messages about exhausted resources."""
