"""Pure questions to the evidence of a release under a policy."""
