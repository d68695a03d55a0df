"""Sweeps: Optuna searches the settings of classification runs, in many processes."""
