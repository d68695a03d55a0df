"""Scores from exact integer counts, their intervals, and comparisons."""
