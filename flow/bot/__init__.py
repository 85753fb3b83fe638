"""The bot in a call, and everything else that knows Pipecat."""
