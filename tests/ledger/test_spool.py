"""The spool: what was appended is there for whoever comes next, however its process ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flow.ledger.spool import Spool


def events_of(spool: Spool) -> list[object]:
    lines, _ = spool.read(10_000)
    return [line.event for line in lines]


def test_lines_come_back_in_order_and_only_once(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path)
    for n in range(5):
        spool.append("event", {"n": n})
    first, position = spool.read(3)
    assert [line.event for line in first] == [{"n": 0}, {"n": 1}, {"n": 2}]
    spool.advance(position)
    assert events_of(spool) == [{"n": 3}, {"n": 4}]


@given(texts=st.lists(st.text(st.characters(), max_size=200), max_size=20))
@example(texts=["half a character: \ud800", "\u2028 \x85 \r\n \x0b \x0c \x1c \x7f"])
def test_any_text_survives(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    spool = Spool.create(tmp_path_factory.mktemp("spool"))
    for text in texts:
        spool.append("event", {"text": text})
    assert events_of(spool) == [{"text": text} for text in texts]
    spool.close()


def test_a_living_process_keeps_its_spool_to_itself(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path)
    spool.append("event", {"n": 1})
    assert list(Spool.orphans(tmp_path)) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from flow.ledger.spool import Spool
spool = Spool.create(Path(sys.argv[1]))
for n in range(3):
    spool.append("event", {"n": n})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_an_orphan_with_every_line(tmp_path: Path) -> None:
    process = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert process.returncode == -9
    (orphan,) = Spool.orphans(tmp_path)
    assert events_of(orphan) == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_an_orphan_is_adopted_by_one_process_only(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    adopted = list(Spool.orphans(tmp_path))
    assert len(adopted) == 1
    assert list(Spool.orphans(tmp_path)) == []


def test_a_torn_last_line_is_told_from_the_whole_ones(tmp_path: Path) -> None:
    torn = tmp_path / "0.jsonl"
    torn.write_bytes(b'{"op":"event","event":{"n":1}}\n{"op":"event","ev')
    (orphan,) = Spool.orphans(tmp_path)
    assert events_of(orphan) == [{"n": 1}, None]


def test_trimming_gives_the_disk_back(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path)
    spool.append("event", {"n": 1})
    _, position = spool.read(10)
    spool.advance(position)
    spool.trim([], threshold=0)
    assert spool.path.stat().st_size == 0
    spool.append("event", {"n": 2})
    assert events_of(spool) == [{"n": 2}]


def test_trimming_keeps_what_is_open_and_what_is_unsent(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path)
    still_open = spool.append("open", {"call": 1})
    spool.append("event", {"n": 1})
    _, position = spool.read(2)
    spool.append("event", {"n": 2})
    spool.advance(position)
    spool.trim([still_open], threshold=0)
    assert events_of(spool) == [{"n": 2}]
    spool.append("event", {"n": 3})
    spool.close()
    (orphan,) = Spool.orphans(tmp_path)
    assert events_of(orphan) == [{"call": 1}, {"n": 2}, {"n": 3}]


def test_only_this_user_can_read_a_spool(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path / "spool")
    assert spool.path.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_said(tmp_path: Path) -> None:
    fd = os.open("/dev/full", os.O_RDWR | os.O_APPEND)
    with pytest.raises(OSError, match="No space left"):
        Spool(tmp_path / "full.jsonl", fd).append("event", {"n": 1})
