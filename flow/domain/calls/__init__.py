"""A call from its join to its end."""
