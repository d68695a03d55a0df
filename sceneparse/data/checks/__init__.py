"""The doctor: what `check` finds in a whole dataset, and splits without duplicates."""
