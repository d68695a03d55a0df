"""Run folders: locks, checkpoints, logs, and files that are complete or absent."""
