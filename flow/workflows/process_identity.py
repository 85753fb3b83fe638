"""The name of a process, which it keeps when it is killed and started again.

A process takes the first free place of its data folder, by a lock that is released however the
process dies. The holder of a place therefore knows that earlier holders are gone. About other
folders only the database knows: see `flow.workflows.executors`.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from uuid import UUID, uuid4


@dataclass(frozen=True, slots=True)
class Identity:
    """``name`` is the same at every start from a place of a folder; ``instance`` is of this one.

    ``home`` is the id of the data folder.
    """

    name: str
    home: str
    instance: UUID = field(default_factory=uuid4)


@contextmanager
def identity(data_dir: Path, given: str | None = None) -> Iterator[Identity]:
    """A name that no other living process of this folder has, as long as the block lasts.

    ``given`` takes the place of the host's name and the data folder's own id; a number follows
    either, since several processes may share a folder. Raises `OSError` when the disk does.
    """
    folder = data_dir / "executors"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    home = made_once(folder / "id", lambda: uuid4().hex[:12])
    base = given or f"{socket.gethostname()}-{home}"
    for place in count():
        fd = os.open(folder / f"{place}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        try:
            yield Identity(f"{base}-{place}", home)
        finally:
            os.close(fd)
        return


def made_once(path: Path, make: Callable[[], str]) -> str:
    """The text of a file, which is made where there is none; whoever reads it finds it whole.

    Only this user can read it. Any number of processes may ask at once.
    """
    if not path.exists():
        draft = path.with_name(f"{path.name}.{uuid4()}")
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(fd, "w") as file:
                file.write(make())
            with suppress(FileExistsError):
                os.link(draft, path)
        finally:
            draft.unlink()
    return path.read_text().strip()
