"""What every storage of recordings does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from flow.errors import Unavailable

CONTENT_TYPE = "audio/flac"


class StorageUnavailable(Unavailable):
    """The storage of recordings does not answer, or refuses."""


def origin_of(url: str) -> str:
    """Scheme and host of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


class RecordingStorage(Protocol):
    """Files by their paths, ``a/b.flac``, below whatever the operator's URL names.

    Any call may raise `StorageUnavailable`, and may be repeated.
    """

    @property
    def origin(self) -> str | None:
        """Scheme and host of its links, as a content security policy names them; ``None``: it has
        no links."""
        ...

    async def put(self, path: str, file: Path) -> None:
        """Store a file, in place of one that is there."""
        ...

    async def get(self, path: str, file: Path) -> None:
        """Fetch what is stored into ``file``."""
        ...

    async def remove(self, paths: Sequence[str]) -> None:
        """Remove files; those that are not there are no error."""
        ...

    async def link(self, path: str, secs: int) -> str | None:
        """A URL that whoever has it can read the file at for so many seconds.

        ``None``: the storage has none, and the file is to be served from `local`.
        """
        ...

    def local(self, path: str) -> Path | None:
        """The file on this machine, where the storage is a folder and has it."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...
