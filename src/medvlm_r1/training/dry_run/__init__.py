"""What a training would cost, worked out before it begins: steps, tokens, operations, memory and time.

counts.py   floating-point operations of a forward and a backward pass
batch.py    the shape of an optimizer step: rows, prompts, how often each is computed
work.py     the operations of a whole step by phase and part, with the prompt shared and not
memory.py   bytes on each device by part
cards.py    known cards, and the time the operations take on them under assumed efficiencies
shape.py    the sizes of a model, read from its configuration without its weights
prompts.py  the tokens of a data set's prompts, by the model's own processor
launch.py   the devices, read from a file of `accelerate launch`
settings.py what of a configuration the arithmetic needs
plan.py     all of it for one configuration
refuse.py   what cannot be run

The first five are arithmetic on plain numbers. Operations and parameters are counted; memory is an estimate (what
autograd keeps is counted, the allocator is not); time is a guess under stated efficiencies.
"""
