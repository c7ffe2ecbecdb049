"""CARE and sovereignty: regions, generalisation and screening."""
