"""A stand-in for Twilio, and calls by it."""
