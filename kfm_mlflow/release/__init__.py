"""A release directory as a value: manifest, bundle, frozen copies."""
