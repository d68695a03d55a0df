"""The machine: device and precision, processes, signals, the terminal, versions."""
