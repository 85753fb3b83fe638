"""Commands where there is no database: none makes an empty one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.operate.conftest import Terminal
from tests.ports import free_port

COMMANDS = [
    ["usage"],
    ["keys", "list"],
    ["keys", "show", "x"],
    ["keys", "create", "--team", "acme", "--name", "Ada"],
    ["keys", "budget", "x", "--cap", "5"],
    ["keys", "save-mode", "x", "on"],
    ["keys", "quota", "acme"],
    ["keys", "webhook", "x"],
    ["keys", "revoke", "x", "--yes"],
    ["webhooks", "list"],
    ["webhooks", "show", "0" * 32],
    ["webhooks", "replay", "--dead"],
    ["webhooks", "secret", "x"],
    ["migrate"],
    ["worker"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
async def test_a_command_says_which_database_it_looked_for_and_makes_none(
    command: list[str], terminal: Terminal, tmp_path: Path
) -> None:
    terminal.without("DATABASE_URL")
    folder = tmp_path / "data"
    done = await terminal.flow(*command, FLOW_DATA_DIR=str(folder), OPENAI_API_KEY="x")
    assert done.failure.startswith("There is no database: DATABASE_URL and SUPABASE_URL are not")
    assert f"no embedded one is in {folder}/postgres" in done.failure
    assert not folder.exists()
    assert list(terminal.unkey.requests) == []


async def test_a_database_that_is_away_is_named_without_its_password(terminal: Terminal) -> None:
    url = f"postgresql://ada:hunter2@127.0.0.1:{free_port()}/flow"
    for command in (["usage"], ["keys", "list"], ["migrate"]):
        said = (await terminal.flow(*command, DATABASE_URL=url)).failure
        assert "127.0.0.1" in said
        assert "hunter2" not in said


@pytest.mark.parametrize("name", ["SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY"])
async def test_half_of_supabase_is_no_database(
    name: str, terminal: Terminal, tmp_path: Path
) -> None:
    terminal.without("DATABASE_URL")
    half = {name: "https://x.supabase.co", "FLOW_DATA_DIR": str(tmp_path / "data")}
    assert "go together" in (await terminal.flow("usage", **half)).failure
    assert not (tmp_path / "data").exists()
