"""Policies: loading a model and its processor, and generating with it in this process or on a server."""
