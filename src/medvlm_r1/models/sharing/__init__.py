"""The shared forward pass: a prompt and its images go through the model once for all their completions."""
