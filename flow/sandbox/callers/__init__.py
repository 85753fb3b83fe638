"""Scripted callers: what they say, and the ways by which they reach a bot."""
