"""How vendor work becomes usage events: one core for bots, insights and gateway.

A *tap* sits on a vendor's wire and hands what passes to a *reader* of that protocol, which turns
it into *evidence*; a `MeteredRequest` is fed with evidence and ends as exactly one event. Readers
are pure; only taps do I/O. Nothing here knows Pipecat, FastAPI or a vendor's SDK.
"""
