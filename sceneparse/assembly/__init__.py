"""Tables of runs: settings, seeds, and a test of each."""
