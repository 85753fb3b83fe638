"""What is installed of this package, and how to install more of it.

Its name on the package index is not the name it is imported by: `flow` there is somebody else's.
"""

from __future__ import annotations

from importlib.util import find_spec

DISTRIBUTION = "flow-voice"


def version() -> str:
    """The version of this package."""
    # Slow to import, and of no use to `flow --help`.
    from importlib import metadata

    return metadata.version(DISTRIBUTION)


def requirement(extra: str) -> str:
    """The package with one of its extras, as pip takes it in a shell."""
    return f"'{DISTRIBUTION}[{extra}]'"


def is_installed(module: str) -> bool:
    """Whether a module can be imported, without importing it."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # what it is in is missing
        return False
