"""The settings of runs. Only the tools and `assembly` read them; the rest takes plain arguments."""
