"""What was said while the database refused it, by a process that did not live to save it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import psycopg

from flow.db.database import Database
from flow.domain.calls.thread import Status
from flow.sandbox.callers.caller import call
from flow.sandbox.callers.conversation import CallerEvent, EventKind
from tests.calls.processes import flow_serve
from tests.calls.test_call import JOIN, LONG, stood_in
from tests.calls.test_killed import Left


@contextmanager
def full_disk(database_url: str) -> Iterator[None]:
    """Nothing that is said can be stored, as on a server whose disk is full."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            """
            create function full_disk() returns trigger language plpgsql as $$
            begin
              raise exception 'could not extend file' using errcode = '53100';
            end
            $$;
            create trigger full_disk before insert on workflow_thread_turns
              for each row execute function full_disk();
            """
        )
        try:
            yield
        finally:
            connection.execute("drop trigger full_disk on workflow_thread_turns")


def on_disk(spool: Path) -> str:
    return "".join(path.read_text() for path in spool.iterdir())


async def test_a_killed_process_loses_nothing_of_what_was_said(
    database: Database, postgres_url: str, tmp_path: Path
) -> None:
    script = replace(LONG, token_secs=0.05)
    said = script.lines[0].text
    loop = asyncio.get_running_loop()
    thread_id = ""
    async with stood_in(script) as standing:
        with full_disk(postgres_url):
            async with flow_serve(standing, postgres_url, tmp_path) as first:
                has_spoken = False

                def hear(event: CallerEvent) -> None:
                    nonlocal has_spoken, thread_id
                    if event.kind is EventKind.JOINED:
                        thread_id = event.detail
                    has_spoken = has_spoken or event.kind is EventKind.LINE_ENDED
                    if has_spoken and event.kind is EventKind.BOT_STARTED:
                        loop.call_later(1.0, first.kill)

                with suppress(Exception):
                    await call(first.url, standing.api_key, script, join=JOIN, on_progress=hear)
            left = Left(database, standing, UUID(thread_id))
            assert (await database.get_workflow_thread_data(left.thread_id)).transcript == ()
            assert said in on_disk(tmp_path / "spool")
        async with flow_serve(standing, postgres_url, tmp_path):
            thread = await left.settled()
            await left.conserved()
    assert thread.status is Status.FAILED
    assert [(turn.role, turn.content) for turn in thread.transcript] == [
        ("assistant", script.greeting),
        ("user", script.lines[0].text),
    ]
    assert thread.insights is not None
    assert thread.insights["status"] == "ok"
    assert left.asked_for_insights == 1
    assert said not in on_disk(tmp_path / "spool")
