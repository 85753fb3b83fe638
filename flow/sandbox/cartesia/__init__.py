"""A stand-in for Cartesia: text to speech and speech to text over WebSockets."""
