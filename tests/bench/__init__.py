"""How fast Flow is, against a baseline measured in the same run: ``make bench``.

Machines are noisy and shared, so times say little alone. Each benchmark runs its baseline and
Flow in turn for several rounds, takes medians, and judges their ratio. Everything stays on
loopback and ends by itself.
"""
