"""Training: from a configuration to the parts of a run, and through its epochs."""
