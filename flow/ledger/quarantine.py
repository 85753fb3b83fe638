"""The quarantine: lines of a spool that cannot be read or sent, kept for an operator."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

MAX_BYTES = 256 << 20
"""What one folder's quarantine may take of the disk, which the spool needs too."""

# Lines that may go to the log: what was said may not.
LOGGABLE = (b'{"op":"event"', b'{"op":"open"', b'{"op":"drop"')


class Quarantine:
    """``quarantine.ndjson`` in ``directory``: one ``{"reason", "line"}`` a line, for us alone."""

    def __init__(self, directory: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._path = directory / "quarantine.ndjson"
        self._max_bytes = max_bytes

    def keep(self, raw: bytes, reason: str) -> None:
        """Put a line aside; never raises. What the file does not take is logged, unless said."""
        entry = {"reason": reason, "line": raw.decode(errors="replace")}
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with open(fd, "ab") as file:
                if file.tell() >= self._max_bytes:
                    raise OSError(errno.EFBIG, f"it holds {self._max_bytes} bytes: empty it")
                file.write(json.dumps(entry).encode() + b"\n")
        except OSError as error:
            if not raw.startswith(LOGGABLE):
                entry["line"] = "not shown: it may be what was said"
            log.error("quarantine_failed", error=str(error), **entry)
