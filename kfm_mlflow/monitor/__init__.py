"""Energy, carbon and attribution of a training run."""
