"""Checks that this machine trains correctly, run by `medvlm-r1 doctor`.

tiny_models.py   a tiny random model of every supported family
equality.py      compare the shared forward pass with the plain one
steps.py         short GRPO runs: measure time and memory, and check the saved model
run.py           run every check in its own process, and write doctor.json and doctor.md
"""
