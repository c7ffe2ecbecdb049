"""The fleet: artifacts of several providers, one governed release, rolled out agent by agent."""
