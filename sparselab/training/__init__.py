"""Training with masks: the Sparsifier, and ASP's own interface on top of it."""
