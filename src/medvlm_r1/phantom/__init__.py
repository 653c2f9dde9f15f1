"""PhantomVQA: a synthetic benchmark with computed anatomy, simulated images, and questions with ground truth."""
