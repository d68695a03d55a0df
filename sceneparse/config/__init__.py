"""The settings of runs, read by commands, training and studies; the rest takes plain arguments."""
