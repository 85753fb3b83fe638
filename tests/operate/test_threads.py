"""`flow threads`: calls of all keys, and an end to one in whichever process."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from flow.domain.calls.thread import Status, Thread, Turn
from tests.db.making import a_key, a_thread, spend
from tests.operate.conftest import Terminal

SPOKEN = "My card ends in [bold]4242[/bold]."


async def a_running_call(terminal: Terminal, team: str = "acme") -> Thread:
    """A call that the process blue-0 holds."""
    thread = await a_thread(terminal.database, await a_key(terminal.database, team))
    await terminal.database.claim_thread(thread.id, f"blue-0/{uuid4()}")
    turn = Turn(0, "user", SPOKEN, datetime.now(UTC))
    await spend(terminal.database, thread, "0.25")
    return await terminal.database.save_workflow_thread_data(
        thread.id, status=Status.IN_CALL, turns=[turn]
    )


async def test_running_calls_are_listed_and_ended(terminal: Terminal) -> None:
    running, waiting = await a_running_call(terminal), await a_running_call(terminal, "umbrella")
    over = await a_thread(terminal.database, await a_key(terminal.database, "acme"))
    ended = (await terminal.flow("threads", "end", str(over.id), "--json")).json
    assert ended["status"] == "cancelled"
    today = datetime.now(UTC).date()
    for args, threads in [
        ([], [over, waiting, running]),
        (["--limit", "1"], [over]),
        (["--running"], [waiting, running]),
        (["--running", "--team", "acme"], [running]),
        (["--host", "blue-0", "--team", "umbrella"], [waiting]),
        (["--status", "cancelled"], [over]),
        (["--from", str(today), "--to", str(today)], [over, waiting, running]),
        (["--to", str(today - timedelta(days=1))], []),
    ]:
        told = (await terminal.flow("threads", "list", *args, "--json")).json["threads"]
        assert [one["workflow_thread_id"] for one in told] == [str(one.id) for one in threads], args
    table = (await terminal.flow("threads", "list", "--running")).out
    assert str(running.id) in table
    assert "blue-0" in table
    told = await terminal.flow("threads", "end", str(running.id))
    assert told.out == "blue-0 ends the call with its next sign of life.\n"
    # So the process that holds it is told.
    assert (await terminal.database.touch_thread(running.id)).end_requested
    assert not (await terminal.database.touch_thread(waiting.id)).end_requested


async def test_what_was_said_is_shown_when_it_is_asked_for(terminal: Terminal) -> None:
    thread = await a_running_call(terminal)
    account = await terminal.flow("threads", "show", str(thread.id))
    assert "0.2500 USD" in account.out
    assert "4242" not in account.out
    assert SPOKEN in (await terminal.flow("threads", "show", str(thread.id), "--content")).out
    told = (await terminal.flow("threads", "show", str(thread.id), "--content", "--json")).json
    assert told["transcript"][0]["content"] == SPOKEN
    assert told["usage_stats"]["total_cost_usd"] == "0.25"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["show", "nonsense"], "no id of a thread"),
        (["end", str(uuid4())], "There is no thread"),
        (["show", str(uuid4())], "There is no thread"),
        (["list", "--key", "nobody"], "There is no API key nobody"),
        (["list", "--from", "2026-12-01", "--to", "2026-11-01"], "is after"),
    ],
)
async def test_what_there_is_not_is_said(terminal: Terminal, args: list[str], said: str) -> None:
    assert said in (await terminal.flow("threads", *args)).failure


async def test_every_status_can_be_asked_for(terminal: Terminal) -> None:
    for status in Status:
        listed = await terminal.flow("threads", "list", "--status", status, "--json")
        assert listed.json == {"threads": []}
    assert "'over' is not one of" in (await terminal.flow("threads", "list", "--status=over")).err
