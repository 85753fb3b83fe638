"""Stand-ins for the vendors on loopback, and a scripted caller."""
