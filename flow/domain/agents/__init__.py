"""Agents: bots that are stored, and the variables that fill them in for one call."""
