"""What is installed of this package."""

from __future__ import annotations

from importlib import metadata

DISTRIBUTION = "flow"


def version() -> str:
    """The version of this package."""
    return metadata.version(DISTRIBUTION)
