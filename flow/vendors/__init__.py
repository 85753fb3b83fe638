"""The only clients of the outside world."""
