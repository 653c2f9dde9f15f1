"""Command line: the commands, their shared options and their error messages.

Every command imports what it needs when it runs, so that `--help` does not load torch.
"""
