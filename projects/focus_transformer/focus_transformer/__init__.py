"""Focus Transformer: sequences of a place, read by attention, one checkpoint an epoch."""
