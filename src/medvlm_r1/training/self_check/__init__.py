"""Checks that this machine trains correctly, run by `medvlm-r1 doctor`.

equality.py   compare the shared forward pass with the plain one, for the tiny models in families.yaml
steps.py      short GRPO runs (steps.yaml): measure time and memory, and check the saved model
run.py        run every check in its own process, and write doctor.json and doctor.md
"""
