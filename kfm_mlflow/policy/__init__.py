"""What people write: policies, read from YAML into values."""
