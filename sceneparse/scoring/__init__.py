"""Score label files that any program wrote: find them, match them with masks, read both, count."""
