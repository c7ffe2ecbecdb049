"""How unlike its season a field is."""
