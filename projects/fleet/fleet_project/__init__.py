"""The fleet: generated tasks, three specialty heads and a coordinator, and what providers make."""
