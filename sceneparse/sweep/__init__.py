"""Sweeps: many classification runs whose settings are searched, on Optuna, in many processes."""
