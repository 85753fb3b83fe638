"""What a process is called."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flow.app.clients import secret_of
from flow.errors import ConfigurationError
from flow.settings import Settings
from flow.workflows.process_identity import identity, made_once

HOLD = (
    "import sys; from pathlib import Path; from flow.workflows.process_identity import identity\n"
    "with identity(Path(sys.argv[1])) as own: print(own.name, flush=True); sys.stdin.read()"
)


def test_processes_of_one_folder_have_names_of_their_own_and_keep_them(tmp_path: Path) -> None:
    with identity(tmp_path) as first, identity(tmp_path) as second:
        assert first.name != second.name
        assert first.home == second.home
    with identity(tmp_path) as again:
        assert (again.name, again.home) == (first.name, first.home)
        assert again.instance != first.instance


def test_a_killed_process_leaves_its_name_to_the_next(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        taken = other.stdout.readline().strip()
        with identity(tmp_path) as beside:
            assert beside.name != taken
        other.kill()
        other.wait(10)
    with identity(tmp_path) as own:
        assert own.name == taken


def test_folders_differ_and_an_operator_may_name_the_host(tmp_path: Path) -> None:
    with identity(tmp_path / "a") as one, identity(tmp_path / "b") as other:
        assert one.name != other.name
        assert one.home != other.home
    with identity(tmp_path / "a", "blue") as named, identity(tmp_path / "a", "blue") as n:
        assert (named.name, n.name) == ("blue-0", "blue-1")


def test_a_file_is_made_once_and_is_whole_for_whoever_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    made = iter(range(100))
    with ThreadPoolExecutor(8) as threads:
        read = list(threads.map(lambda _: made_once(path, lambda: f"{next(made):04}"), range(64)))
    assert set(read) == {path.read_text()}
    assert path.stat().st_mode & 0o077 == 0
    assert [each.name for each in tmp_path.iterdir()] == ["secret"]


def test_a_file_that_cannot_be_made_leaves_no_half(tmp_path: Path) -> None:
    def fail() -> str:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        made_once(tmp_path / "secret", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_secret_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, secret=None)
    made = secret_of(settings)
    assert secret_of(settings) == made
    (tmp_path / "secret").write_text("")
    with pytest.raises(ConfigurationError, match="remove it"):
        secret_of(settings)
