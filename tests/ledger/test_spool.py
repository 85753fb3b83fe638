"""The spool: what was appended is there for whoever comes next, however its process ended."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flow.ledger.spool import BLOCK_BYTES, MAX_LINE_BYTES, MAX_READ_BYTES, Spool


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


@given(
    sizes=st.lists(
        st.one_of(st.integers(0, 200), st.integers(-3, 3).map(lambda n: BLOCK_BYTES + n)),
        max_size=6,
    )
)
def test_lines_of_any_length_are_found_whole(
    sizes: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    spool = Spool.create(tmp_path_factory.mktemp("spool"))
    written = [spool.append("event", {"text": "x" * size}) for size in sizes]
    lines, position = spool.read(100)
    assert [(line.raw, line.size) for line in lines] == [(raw, len(raw)) for raw in written]
    assert position == sum(map(len, written))
    spool.close()


def test_a_line_without_an_end_is_read_in_bounded_pieces_and_cut(tmp_path: Path) -> None:
    size = 15 * MAX_LINE_BYTES
    with (tmp_path / "0.jsonl").open("wb") as file:
        file.write(b"x" * size + b"\n")
        file.write(b'{"op":"event","event":{"n":1}}\n')
    (orphan,) = Spool.orphans(tmp_path)
    tracemalloc.start()
    (first,), position = orphan.read(1)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (first.event, len(first.raw), first.size) == (None, MAX_LINE_BYTES, size + 1)
    assert most < 5 * MAX_LINE_BYTES
    orphan.advance(position)
    assert events_of(orphan) == [{"n": 1}]


def test_a_read_is_bounded_in_bytes_too(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path)
    for _ in range(20):
        spool.append("turn", {"content": "x" * (1 << 20)})
    lines, position = spool.read(500)
    assert MAX_READ_BYTES <= position < MAX_READ_BYTES + (2 << 20)
    spool.advance(position)
    rest, _ = spool.read(500)
    assert len(lines) + len(rest) > len(lines)


def test_a_line_that_nests_too_deeply_is_unreadable_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "0.jsonl").write_bytes(b"[" * 200_000 + b"\n")
    (orphan,) = Spool.orphans(tmp_path)
    assert events_of(orphan) == [None]


def _folder(path: Path) -> None:
    path.mkdir()


def _dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def _socket(path: Path) -> None:
    os.mknod(path, 0o600 | 0o140000)


@pytest.mark.parametrize("suffix", ["jsonl", "draft"])
@pytest.mark.parametrize("make", [_folder, os.mkfifo, _dangling, _socket])
def test_what_only_has_the_name_of_a_spool_is_skipped_with_a_log_line(
    make: Callable[[Path], None],
    suffix: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(tmp_path / f"0.{suffix}")
    (tmp_path / "1.jsonl").write_bytes(b'{"op":"event","event":{"n":1}}\n')
    Spool.remove_drafts(tmp_path)
    (orphan,) = Spool.orphans(tmp_path)
    assert events_of(orphan) == [{"n": 1}]
    assert capsys.readouterr().out.count("spool_skipped") == 1
    assert os.path.lexists(tmp_path / f"0.{suffix}")


DRAFTING = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
fcntl.flock(fd, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_draft_is_removed_once_its_process_is_gone(tmp_path: Path) -> None:
    draft = tmp_path / "0.draft"
    with subprocess.Popen(
        [sys.executable, "-c", DRAFTING, str(draft)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        Spool.remove_drafts(tmp_path)
        assert draft.exists()
        process.kill()
        process.wait(10)
    Spool.remove_drafts(tmp_path)
    assert not draft.exists()


def test_spools_that_are_made_while_drafts_are_removed_are_there(tmp_path: Path) -> None:
    """A draft may be removed between its making and its lock: then it is made once more."""
    stopped = threading.Event()

    def remove() -> None:
        while not stopped.is_set():
            Spool.remove_drafts(tmp_path)

    remover = threading.Thread(target=remove)
    remover.start()
    try:
        for n in range(300):
            spool = Spool.create(tmp_path)
            spool.append("event", {"n": n})
            assert spool.path.stat().st_size > 0
            spool.close(remove=True)
    finally:
        stopped.set()
        remover.join()


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


def test_a_line_that_was_written_in_part_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk has room for half of it, and for all of the next one."""
    spool = Spool.create(tmp_path)
    spool.append("event", {"n": 1})
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[: len(data) // 2]))
    with pytest.raises(OSError, match="disk is full"):
        spool.append("event", {"n": 2})
    monkeypatch.undo()
    spool.append("event", {"n": 3})
    assert events_of(spool) == [{"n": 1}, {"n": 3}]
    assert spool.path.stat().st_size == spool.unsent_bytes


@pytest.mark.parametrize("becomes", ["replaced", "removed"])
def test_a_file_that_is_no_spool_any_more_once_it_is_locked_is_left_alone(
    becomes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process trims or removes it between the moment it is opened and the lock."""
    path = tmp_path / "0.jsonl"
    path.write_bytes(b'{"op":"event","event":{"n":1}}\n')
    lock = fcntl.flock

    def late(fd: int, how: int) -> None:
        monkeypatch.undo()
        if becomes == "replaced":
            (tmp_path / "other").write_bytes(b"")
            (tmp_path / "other").replace(path)
        else:
            path.unlink()
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    assert list(Spool.orphans(tmp_path)) == []


def test_a_spool_that_cannot_be_replaced_is_kept_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool.create(tmp_path)
    still_open = spool.append("open", {"call": 1})
    spool.append("event", {"n": 1})
    _, position = spool.read(2)
    spool.append("event", {"n": 2})
    spool.advance(position)
    monkeypatch.setattr(os, "write", lambda fd, data: len(data) - 1)
    with pytest.raises(OSError, match="disk is full"):
        spool.trim([still_open], threshold=0)
    monkeypatch.undo()
    assert events_of(spool) == [{"n": 2}]
    assert [path.suffix for path in tmp_path.iterdir()] == [".jsonl"]
    spool.append("event", {"n": 3})
    spool.close()
    (orphan,) = Spool.orphans(tmp_path)
    assert events_of(orphan) == [{"call": 1}, {"n": 1}, {"n": 2}, {"n": 3}]


@pytest.mark.parametrize("short_of", [0, 1])
def test_open_lines_are_only_moved_when_enough_has_been_sent(short_of: int, tmp_path: Path) -> None:
    spool = Spool.create(tmp_path)
    still_open = spool.append("open", {"call": 1})
    _, position = spool.read(1)
    spool.advance(position)
    inode = spool.path.stat().st_ino
    spool.trim([still_open], threshold=position - short_of)
    assert (spool.path.stat().st_ino != inode) == bool(short_of)
