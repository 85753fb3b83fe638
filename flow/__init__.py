"""Flow: a Pipecat voice-bot service whose account of every call can be invoiced."""
