"""Dry run: compute steps, tokens and memory of a training run, and check it, without loading weights.

shape.py     sizes of the model, from its config.json, and of the prompts, from its processor
memory.py    bytes on each device, by part (weights, gradients, activations, ...)
settings.py  the values of a configuration that the estimate needs: the run and its devices
plan.py      the plan of a configuration, and the checks that refuse it

Steps, tokens and parameters are exact counts. Memory is an estimate, because allocator overhead is not modeled.
"""
