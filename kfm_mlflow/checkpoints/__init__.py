"""Checkpoints of one training: saved whole, verified, and certified by a council."""
