"""Load a policy (a model and its processor), and generate with it in this process or on a server."""
