"""Building blocks of the networks: convolutions, pooling modules, attention blocks."""
