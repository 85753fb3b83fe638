"""Lines that cannot be read or sent, kept where an operator can find them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

SAID = b'{"op":"turn"'


class Quarantine:
    """``quarantine.ndjson`` in ``directory``: one ``{"reason", "line"}`` a line, for us alone."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "quarantine.ndjson"

    def keep(self, raw: bytes, reason: str) -> None:
        """Put a line aside; never raises. What the disk does not take is logged, unless said."""
        entry = {"reason": reason, "line": raw.decode(errors="replace")}
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with open(fd, "ab") as file:
                file.write(json.dumps(entry).encode() + b"\n")
        except OSError as error:
            if raw.startswith(SAID):
                entry["line"] = "what was said"
            log.error("quarantine_failed", error=str(error), **entry)
