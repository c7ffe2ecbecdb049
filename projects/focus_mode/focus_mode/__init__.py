"""The Focus Mode family: a made-up world, the context model trained on it, and its stories."""
