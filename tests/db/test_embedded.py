"""The embedded Postgres."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from flow.db.embedded import embedded_postgres, running_postgres
from flow.errors import ConfigurationError

OTHER_PROCESS = """
import sys, time
from pathlib import Path
from flow.db.embedded import running_postgres
with running_postgres(Path(sys.argv[1])) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the data goes: open to the user Postgres runs as, and short enough for a socket."""
    parent = Path(tempfile.mkdtemp(prefix="flow-tests-"))
    yield parent / "pg"
    shutil.rmtree(parent)


def answers(url: str) -> bool:
    """Whether a Postgres answers there."""
    try:
        with psycopg.connect(url) as connection:
            return connection.execute("select 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def another_process(folder: Path) -> subprocess.Popen[str]:
    """A process that uses the same folder until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("postgresql://")
    return process


async def test_data_stays_and_the_server_goes(folder: Path) -> None:
    async with embedded_postgres(folder) as url:
        with psycopg.connect(url) as connection:
            connection.execute("create table kept as select 7 as n")
    assert not answers(url)
    async with embedded_postgres(folder) as url:
        with psycopg.connect(url) as connection:
            assert connection.execute("select n from kept").fetchone() == (7,)


def test_the_last_user_stops_the_server(folder: Path) -> None:
    with running_postgres(folder) as url:
        with running_postgres(folder) as same:
            assert same == url
        assert answers(url)
        other = another_process(folder)
    assert answers(url)
    other.communicate(timeout=30)
    assert not answers(url)


def test_a_killed_user_is_not_waited_for(folder: Path) -> None:
    other = another_process(folder)
    other.kill()
    other.communicate(timeout=30)
    with running_postgres(folder) as url:
        assert answers(url)
    assert not answers(url)


def test_a_server_that_was_killed_is_started_again(folder: Path) -> None:
    with running_postgres(folder) as url:
        postmaster = int((folder / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while answers(url) and time.monotonic() < deadline:
            time.sleep(0.05)
        with running_postgres(folder) as again:
            assert answers(again)


@pytest.mark.parametrize(
    "left", ["{pid}\n", "{pid}\n{folder}\n1\n5432\n{folder}\n\n0 0\nready   \n"]
)
def test_a_pid_file_that_names_another_program_is_ignored(folder: Path, left: str) -> None:
    with running_postgres(folder):
        pass
    stale = folder / "postmaster.pid"
    stale.write_text(left.format(pid=os.getpid(), folder=folder))
    os.utime(stale, (0, 0))
    with running_postgres(folder) as url:
        assert answers(url)


def test_data_of_another_major_version_is_left_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / "PG_VERSION").write_text("13\n")
    with pytest.raises(ConfigurationError, match="13"), running_postgres(folder):
        pass
    assert [file.name for file in folder.iterdir()] == ["PG_VERSION"]
