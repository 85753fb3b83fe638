"""Commands beside a running service that has the embedded database open."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flow.app.database import database_of
from flow.settings import Settings

PROGRAM = "from flow.cli import main; main()"


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Open to the user Postgres runs as, and short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="flow-tests-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


async def test_a_command_sees_and_changes_what_a_running_service_has_open(data_dir: Path) -> None:
    env = {"PATH": os.environ["PATH"], "FLOW_DEBUG": "true", "FLOW_DATA_DIR": str(data_dir)}
    settings = Settings(data_dir=data_dir, database_url=None, supabase_url=None)
    async with database_of(settings) as database:
        key = await database.resolve_api_key("debug", "debug", "debug")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROGRAM, "keys", "budget", "debug", "--cap", "5", "--json"),
            env=env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert (process.returncode, err) == (0, b"")
        assert json.loads(out)["api_key_id"] == str(key.id)
        # The service goes on after the command has left.
        assert (await database.operating.get_api_key("debug")).budget.cap_usd == 5
