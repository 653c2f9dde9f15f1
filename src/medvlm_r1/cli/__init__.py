"""Command line: one module per verb, with shared options and error messages.

Every verb imports what it needs when it runs, so that help answers without loading torch.
"""
