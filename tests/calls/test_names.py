"""Two hosts with one name: the second does not start, and the first one's calls go on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from flow.db.database import Database
from flow.domain.calls.thread import Status
from flow.workflows.executors import DEAD_SECS
from tests.calls.processes import flow_serve
from tests.calls.test_call import SHORT, stood_in
from tests.workflows.conftest import in_call


@pytest.mark.parametrize("workflows", ["on", "off"])
async def test_a_second_host_of_a_name_is_refused_and_a_restart_of_the_first_is_not(
    workflows: str, database: Database, postgres_url: str, tmp_path: Path
) -> None:
    named = {"FLOW_EXECUTOR_ID": "blue", "FLOW_WORKFLOWS": workflows}
    first, second = tmp_path / "first", tmp_path / "second"

    async def status() -> Status:
        return (await database.get_workflow_thread_data(thread_id)).status

    async with stood_in(SHORT) as standing:
        async with flow_serve(standing, postgres_url, first, **named) as serving:
            thread_id = await in_call(database, "blue-0/1")
            with pytest.raises(AssertionError, match="in use by another host"):
                async with flow_serve(standing, postgres_url, second, **named):
                    pass
            assert await status() is Status.IN_CALL
            await serving.killed()
        killed_at = time.monotonic()
        async with flow_serve(standing, postgres_url, first, **named):
            assert time.monotonic() - killed_at < DEAD_SECS
            assert await status() not in {Status.CONNECTING, Status.IN_CALL}
