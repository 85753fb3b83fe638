"""Taps: where vendors' wires are seen, by HTTP transport and WebSocket connection."""
