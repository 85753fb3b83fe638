"""A stand-in for OpenAI's API."""
