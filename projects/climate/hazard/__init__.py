"""Tornado days: how likely one is, per H3 cell and month of the year."""
