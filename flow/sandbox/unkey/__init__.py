"""A stand-in for Unkey."""
