"""``python -m flow``: the same as the command ``flow``."""

from __future__ import annotations

from flow.cli import main

main()
