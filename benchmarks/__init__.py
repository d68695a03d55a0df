"""Benchmarks: this package against plain implementations of the same task, in one run."""
