"""PhantomVQA: bodies of known anatomy, imaging physics, and questions with ground truth."""
