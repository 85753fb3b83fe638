"""Readers: a module for each protocol, pure, from bytes and messages to evidence."""
