"""Clients of outside services; no other module talks to them."""
