"""Regional weather from its large-scale drivers."""
