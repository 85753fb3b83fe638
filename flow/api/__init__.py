"""The HTTP and WebSocket surface. Everything that imports FastAPI is in here."""
