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


async def test_a_killed_process_loses_nothing_of_what_was_said(
    database: Database, postgres_url: str, tmp_path: Path
) -> None:
    script = replace(LONG, token_secs=0.05)
    loop = asyncio.get_running_loop()
    thread_id = ""
    async with stood_in(script) as standing:
        with full_disk(postgres_url):
            async with flow_serve(standing, postgres_url, tmp_path) as first:
                said = False

                def hear(event: CallerEvent) -> None:
                    nonlocal said, thread_id
                    if event.kind is EventKind.JOINED:
                        thread_id = event.detail
                    said = said or event.kind is EventKind.LINE_ENDED
                    if said and event.kind is EventKind.BOT_STARTED:
                        loop.call_later(1.0, first.kill)

                with suppress(Exception):
                    await call(first.url, standing.api_key, script, join=JOIN, on_progress=hear)
            left = Left(database, standing, UUID(thread_id))
            assert (await database.get_workflow_thread_data(left.thread_id)).transcript == ()
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
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert kept, "a process leaves its folder's id at the least"
    assert not [path for path in kept if script.lines[0].text.encode() in path.read_bytes()]
