"""The LLM gateway: what it serves, and what a request to it says."""
