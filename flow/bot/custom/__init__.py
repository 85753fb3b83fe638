"""Bots of an operator's own: found at the start, and run as the built-in one is."""
