"""What a process is called, now and when it has been killed and started again.

A process takes the first free place of its data folder and keeps it by a lock that goes with it
however it dies. Whoever has a place therefore knows that those who had it before are gone.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from uuid import uuid4


@contextmanager
def executor_name(data_dir: Path, given: str | None = None) -> Iterator[str]:
    """A name that no other living process has, as long as the block lasts.

    ``given`` takes the place of the host's name and the data folder's own id; a number follows
    either, since several processes may share a folder. Raises `OSError` when the disk does.
    """
    folder = data_dir / "executors"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    base = given or f"{socket.gethostname()}-{_id_of(folder)}"
    for place in count():
        fd = os.open(folder / f"{place}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        try:
            yield f"{base}-{place}"
        finally:
            os.close(fd)
        return


def _id_of(folder: Path) -> str:
    """The folder's id, made once; whoever reads it finds it whole."""
    path = folder / "id"
    if not path.exists():
        draft = folder / f"id.{uuid4()}"
        draft.write_text(uuid4().hex[:12])
        with suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    return path.read_text().strip()
