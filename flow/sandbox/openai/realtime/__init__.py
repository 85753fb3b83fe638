"""A stand-in for OpenAI's Realtime API, part of the one for OpenAI's API."""
