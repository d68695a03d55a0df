"""Sweeps: classification runs whose settings Optuna searches, in many processes."""
