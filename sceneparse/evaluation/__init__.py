"""Evaluations of segmentation models: datasets scored, results written, two compared."""
