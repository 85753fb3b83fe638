"""``make chaos``: faults on purpose, and whether what must hold does.

Each experiment is a module ``r<number>_<name>.py`` with a fault, a `run` and checks; see
`tests.chaos.experiment`. They run on the real service, a real Postgres and the vendors' stand-ins.
"""
