"""Checks that this machine trains correctly, run by `medvlm-r1 doctor`.

tiny_models.py   a tiny random model of every supported family
equality.py      the shared forward against the plain one
steps.py         GRPO runs: against plain TRL, LoRA, FSDP2, vLLM; memory against the dry run; the saved model
run.py           all checks, each in a process of its own; doctor.json and doctor.md
"""
