"""A stand-in for Google's Gemini API."""
