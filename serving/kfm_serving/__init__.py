"""Ray Serve data plane: replicas, router and the portable traffic plane."""
