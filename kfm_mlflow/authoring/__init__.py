"""Composing a release, and the signed validation of one, out of the evidence rooms."""
