"""``flow doctor``: tries whatever a service needs before it is started, or when something is off.

A module a subject; each has functions that return `Finding`s and raise nothing.
"""
