"""What is extracted from a call."""
