"""Recordings in a folder, which is on a disk that all processes of a service share."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from flow.vendors.recording_storage.storage import StorageUnavailable


class Folder:
    """The files below ``root``, which only this user can read."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def origin(self) -> str | None:
        """A folder has no links of its own."""
        return None

    async def put(self, path: str, file: Path) -> None:
        """Copy the file in; nobody sees half of it."""
        await _in_thread(self._put, path, file)

    async def get(self, path: str, file: Path) -> None:
        """Copy the file out."""
        await _in_thread(shutil.copyfile, self._root / path, file)

    async def remove(self, paths: Sequence[str]) -> None:
        """Remove the files, and the folders that are empty then."""
        await _in_thread(self._remove, paths)

    async def link(self, path: str, secs: int) -> str | None:
        """A folder has no links of its own."""
        return None

    def local(self, path: str) -> Path | None:
        """The file, if it is there."""
        found = self._root / path
        return found if found.is_file() else None

    async def aclose(self) -> None:
        """There is nothing to close."""

    def _put(self, path: str, file: Path) -> None:
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Whoever puts it again after a process that was killed takes the same.
        draft = target.with_name(f".{target.name}")
        try:
            with draft.open("wb") as copy, file.open("rb") as source:
                os.fchmod(copy.fileno(), 0o600)
                shutil.copyfileobj(source, copy)
                copy.flush()
                os.fsync(copy.fileno())
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)

    def _remove(self, paths: Sequence[str]) -> None:
        for path in paths:
            target = self._root / path
            target.unlink(missing_ok=True)
            target.with_name(f".{target.name}").unlink(missing_ok=True)
            with suppress(OSError):  # it is not empty, or gone
                target.parent.rmdir()


async def _in_thread(work: object, *args: object) -> None:
    try:
        await asyncio.to_thread(work, *args)  # type: ignore[arg-type]
    except OSError as error:
        raise StorageUnavailable(f"The folder of recordings cannot be used: {error}") from error
