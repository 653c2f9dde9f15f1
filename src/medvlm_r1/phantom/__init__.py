"""PhantomVQA: bodies of known anatomy, the physics that images them, and questions whose truth is on record."""
