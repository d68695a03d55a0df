"""Studies: many runs side by side."""
