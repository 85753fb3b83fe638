"""The quarantine: a bounded file, and nothing said in the log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flow.ledger.quarantine import Quarantine

EVENT = b'{"op":"event","event":{"id":"1"}}'


def test_a_full_quarantine_takes_no_more_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quarantine = Quarantine(tmp_path, max_bytes=1_000)
    for _ in range(100):
        quarantine.keep(EVENT, "the ledger refused it")
    assert (tmp_path / "quarantine.ndjson").stat().st_size < 1_200
    logged = capsys.readouterr().out
    assert "quarantine_failed" in logged
    assert "the ledger refused it" in logged


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (EVENT, True),
        (b'{"op":"turn","event":{"content":"secret 1"}}', False),
        (b'ontent":"secret 1"}}', False),
    ],
)
def test_what_may_have_been_said_is_not_logged(
    raw: bytes, shown: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "quarantine.ndjson").mkdir()
    Quarantine(tmp_path).keep(raw, "unreadable")
    logged = capsys.readouterr().out
    assert "quarantine_failed" in logged
    assert (json.dumps(raw.decode())[1:-1] in logged or raw.decode() in logged) == shown
