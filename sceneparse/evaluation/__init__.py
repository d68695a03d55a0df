"""Evaluate segmentation models on datasets, write the results, compare two evaluations."""
