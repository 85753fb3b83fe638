"""What a process is called."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from flow.workflows.identity import executor_name

HOLD = (
    "import sys; from pathlib import Path; from flow.workflows.identity import executor_name\n"
    "with executor_name(Path(sys.argv[1])) as name: print(name, flush=True); sys.stdin.read()"
)


def test_processes_of_one_folder_have_names_of_their_own_and_keep_them(tmp_path: Path) -> None:
    with executor_name(tmp_path) as first, executor_name(tmp_path) as second:
        assert first != second
    with executor_name(tmp_path) as again:
        assert again == first


def test_a_killed_process_leaves_its_name_to_the_next(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        taken = other.stdout.readline().strip()
        with executor_name(tmp_path) as beside:
            assert beside != taken
        other.kill()
        other.wait(10)
    with executor_name(tmp_path) as name:
        assert name == taken


def test_folders_differ_and_an_operator_may_name_the_host(tmp_path: Path) -> None:
    with executor_name(tmp_path / "a") as one, executor_name(tmp_path / "b") as other:
        assert one != other
    with executor_name(tmp_path / "a", "blue") as named, executor_name(tmp_path / "a", "blue") as n:
        assert (named, n) == ("blue-0", "blue-1")
