"""A stand-in for ElevenLabs: text to speech and speech to text over WebSockets."""
