"""Webhooks, and the URLs they may go to."""
