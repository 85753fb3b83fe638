"""What was said reaches its thread however the process ends, and stays on disk no longer."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flow.db.database import Database
from flow.domain.calls.latency import TurnLatency
from flow.domain.calls.thread import Status, ThreadTurn, Turn
from flow.domain.calls.tool_call import ToolCall, ToolOutcome
from flow.domain.usage.events import Owner
from flow.errors import DatabaseUnavailable
from flow.ledger.recorder import Recorder
from flow.ledger.spool import Spool
from tests.ledger.conftest import NewOwner, llm_event
from tests.ledger.test_recorder import Faulty, recording

T0 = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SECRET = "my number is four two"


class Line(Faulty):
    """The real database behind a line that fails for turns too."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.turns_away = 0
        self.unsayable: set[str] = set()

    async def save_turns(self, turns: Sequence[ThreadTurn]) -> frozenset[UUID]:
        if self.turns_away:
            self.turns_away -= 1
            raise DatabaseUnavailable
        if any(turn.turn.content in self.unsayable for turn in turns):
            raise ValueError(f"cannot take {turns}")
        return await self._database.save_turns(turns)


def turn(seq: int, content: str = "Hello!") -> Turn:
    return Turn(seq, "user", content, T0 + timedelta(seconds=seq), interrupted=seq == 1)


async def transcript(database: Database, owner: Owner) -> list[Turn]:
    return list((await database.get_workflow_thread_data(owner.workflow_thread_id)).transcript)


def on_disk(directory: Path) -> str:
    return "".join(path.read_text() for path in directory.iterdir())


async def test_turns_arrive_though_the_database_is_away_and_leave_the_disk(
    database: Database, new_owner: NewOwner, tmp_path: Path
) -> None:
    owner, line = await new_owner(), Line(database)
    line.turns_away = 2
    async with recording(line, tmp_path) as recorder:
        call = llm_event(owner)
        recorder.begin(call)  # something is always open while a call runs
        recorder.record_turn(owner.workflow_thread_id, turn(0, SECRET))
        recorder.record(llm_event(owner))
        assert SECRET in on_disk(tmp_path)
        assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}
        assert await recorder.drain(owner.workflow_thread_id, 10)
        assert SECRET not in on_disk(tmp_path)
        assert str(call.id) in on_disk(tmp_path)
        recorder.discard(call)
    assert await transcript(database, owner) == [turn(0, SECRET)]
    assert len(await database.get_thread_usage(owner.workflow_thread_id)) == 1


async def test_a_turn_the_database_cannot_take_holds_up_nothing_and_is_not_logged(
    database: Database,
    new_owner: NewOwner,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    owner, line = await new_owner(), Line(database)
    line.unsayable = {SECRET}
    async with recording(line, tmp_path) as recorder:
        for seq, content in enumerate(("one", SECRET, "three")):
            recorder.record_turn(owner.workflow_thread_id, turn(seq, content))
        recorder.record(llm_event(owner))
        assert await recorder.drain(owner.workflow_thread_id, 10)
    assert [said.seq for said in await transcript(database, owner)] == [0, 2]
    assert len(await database.get_thread_usage(owner.workflow_thread_id)) == 1
    kept = json.loads((tmp_path / "quarantine.ndjson").read_text())
    assert json.loads(kept["line"])["event"]["content"] == SECRET
    assert (tmp_path / "quarantine.ndjson").stat().st_mode & 0o077 == 0
    assert SECRET not in "".join(capsys.readouterr())


async def test_turns_of_a_thread_that_went_with_its_key_are_let_go(
    database: Database, new_owner: NewOwner, tmp_path: Path
) -> None:
    owner, nowhere = await new_owner(), uuid4()
    async with recording(database, tmp_path) as recorder:
        recorder.record_turn(nowhere, turn(0))
        recorder.record_turn(owner.workflow_thread_id, turn(0))
        assert await recorder.drain(nowhere, 10)
        assert await recorder.drain(owner.workflow_thread_id, 10)
    assert await transcript(database, owner) == [turn(0)]
    assert list(tmp_path.iterdir()) == []


async def test_when_the_disk_fails_turns_still_arrive(
    database: Database, new_owner: NewOwner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    owner = await new_owner()
    async with recording(database, tmp_path) as recorder:
        monkeypatch.setattr(Spool, "append", full)
        recorder.record_turn(owner.workflow_thread_id, turn(0))
        assert await recorder.drain(owner.workflow_thread_id, 10)
    assert await transcript(database, owner) == [turn(0)]


KILLED = """
import json, os, signal, sys
from pathlib import Path
from uuid import UUID
from flow.domain.calls.thread import ThreadTurn
from flow.ledger.recorder import Recorder
recorder = Recorder(None, Path(sys.argv[1]), price=lambda e: e, on_recorded=lambda *_: None)
for said in map(ThreadTurn.from_json, json.loads(sys.stdin.read())):
    recorder.record_turn(said.workflow_thread_id, said.turn)
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_after(directory: Path, said: list[ThreadTurn]) -> None:
    """A process that hears all of this and is killed before anything is sent."""
    script = json.dumps([one.to_json() for one in said]).encode()
    command = [sys.executable, "-c", KILLED, str(directory)]
    done = subprocess.run(command, input=script, check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("over", [False, True], ids=["running", "finished"])
async def test_what_was_said_in_a_killed_process_is_in_the_transcript_after_the_next_start(
    over: bool, database: Database, new_owner: NewOwner, tmp_path: Path
) -> None:
    """Some of it was saved before, and the thread may have been finished by others."""
    owner = await new_owner()
    said = [ThreadTurn(owner.workflow_thread_id, turn(seq)) for seq in range(4)]
    killed_after(tmp_path, said)
    await database.save_turns(said[:2])
    if over:
        await database.finish_thread(owner.workflow_thread_id, Status.FAILED)
    async with recording(database, tmp_path) as recorder:
        assert await recorder.drain(owner.workflow_thread_id, 10)
    assert await transcript(database, owner) == [one.turn for one in said]
    assert list(tmp_path.iterdir()) == []


async def test_uses_of_tools_in_a_killed_process_are_known_after_the_next_start(
    database: Database, new_owner: NewOwner, tmp_path: Path
) -> None:
    """What had its outcome, and what had only begun."""
    owner = await new_owner()
    begun = [ToolCall(uuid4(), "book", {"n": n}, T0 + timedelta(seconds=n)) for n in range(2)]
    done = replace(begun[0], outcome=ToolOutcome.OK, seconds=0.5, status=200, result={"result": 1})
    lost = Recorder(Faulty(database), tmp_path, price=lambda e: e, on_recorded=lambda *_: None)
    for call in (*begun, done):
        lost.record_tool_call(owner.workflow_thread_id, call)
    assert lost.depth == 3
    lost._spool.close()  # as the kernel does when a process is killed
    async with recording(database, tmp_path) as recorder:
        assert await recorder.drain(owner.workflow_thread_id, 10)
    thread = await database.get_workflow_thread_data(owner.workflow_thread_id)
    assert thread.tool_calls == (done, begun[1])
    assert list(tmp_path.iterdir()) == []


turns = st.builds(
    Turn,
    seq=st.integers(0, 10_000),
    role=st.sampled_from(["user", "assistant"]),
    content=st.text(max_size=300),
    started_at=st.datetimes(timezones=st.just(UTC)),
    interrupted=st.booleans(),
    latency=st.none() | st.builds(TurnLatency, *[st.floats(0, 60)] * 6),
)


@given(said=turns, thread_id=st.uuids())
def test_a_turn_comes_back_from_its_json_as_it_was(said: Turn, thread_id: UUID) -> None:
    one = ThreadTurn(thread_id, said)
    assert ThreadTurn.from_json(json.loads(json.dumps(one.to_json()))) == one


@settings(max_examples=60)
@given(said=st.lists(turns, min_size=1, max_size=12), data=st.data())
def test_of_a_spool_cut_off_anywhere_every_whole_turn_is_there(
    said: list[Turn], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory, thread_id = tmp_path_factory.mktemp("spool"), uuid4()
    spool = Spool.create(directory)
    sizes: list[int] = []
    for one in said:
        spool.append("turn", ThreadTurn(thread_id, one).to_json())
        sizes.append(spool.unsent_bytes)
    spool.close()
    cut = data.draw(st.integers(0, sizes[-1]))
    with spool.path.open("r+b") as file:
        file.truncate(cut)
    (orphan,) = Spool.orphans(directory)
    lines, _ = orphan.read(1000)
    orphan.close()
    whole: list[Any] = [line.event for line in lines if line.event is not None]
    # A line that lacks nothing but its end can be read.
    expected = [one for one, size in zip(said, sizes, strict=True) if size - 1 <= cut]
    assert [ThreadTurn.from_json(event).turn for event in whole] == expected
    assert len(lines) - len(whole) <= 1
