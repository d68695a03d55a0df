"""From configurations to the finished parts of runs: the one place that reads every section."""
