"""Dry run: steps, tokens and memory of a training, and the reasons to refuse it, without loading weights.

shape.py     sizes of the model, from its config.json
prompts.py   tokens of every prompt, from the model's processor
memory.py    bytes on each device, by part
settings.py  the values of a configuration that the estimate needs: batch, run and devices
plan.py      the plan of one configuration, and what it refuses

Steps, tokens and parameters are counted. Memory is an estimate: allocator overhead is not
counted.
"""
