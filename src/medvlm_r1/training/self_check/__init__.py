"""Checks that this machine trains correctly, run by `medvlm-r1 doctor`.

equality.py   compare the shared forward pass with the plain one, for tiny models of every family
steps.py      short GRPO runs: measure time and memory, and check the saved model
run.py        run every check in its own process, and write doctor.json and doctor.md
"""
