"""From normalised images to scores at their own size: one function for every use."""
