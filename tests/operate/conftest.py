"""An operator's terminal, a database of its own, and a stand-in for Unkey."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from flow.db.database import Database
from flow.sandbox.server import Served
from flow.sandbox.unkey.app import ROOT_KEY, UnkeySandbox
from flow.vendors.key_verification_cache import KeyVerifier, VerifiedKey

# One process that runs one command after the other, each as `flow` would: what it imports once
# would take a second anew for each.
SHELL = """
import contextlib, io, json, os, sys
from flow.cli import main
for line in sys.stdin:
    asked = json.loads(line)
    os.environ.clear(); os.environ.update(asked["env"])
    sys.argv = ["flow", *asked["args"]]
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    answer = {"code": code, "out": out.getvalue(), "err": err.getvalue()}
    print(json.dumps(answer), file=sys.__stdout__, flush=True)
"""


Shell = subprocess.Popen[str]


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its one JSON document; fails if it went wrong."""
        assert (self.code, self.err) == (0, ""), self.err
        return json.loads(self.out)

    @property
    def failure(self) -> str:
        """Its one sentence on standard error; fails if it went well, or said more."""
        assert (self.code, self.out) == (2, ""), self.out
        assert self.err.startswith("flow: ")
        assert self.err.count("\n") == 1
        return self.err.removeprefix("flow: ").strip()


@dataclass
class Terminal:
    """Where commands are typed; ``env`` is the environment they find."""

    env: dict[str, str]
    unkey: UnkeySandbox
    unkey_url: str
    database: Database
    shell: Shell = field(repr=False)

    async def flow(self, *args: str, **env: str) -> Done:
        """``flow ARGS``, and what it said. ``env`` adds to the environment."""
        asked = json.dumps({"args": args, "env": self.env | env})
        return Done(**json.loads(await asyncio.to_thread(_exchange, self.shell, asked)))

    async def create(self, *args: str, team: str = "acme", name: str = "Ada") -> dict[str, Any]:
        """A new key, as JSON."""
        done = await self.flow("keys", "create", "--team", team, "--name", name, "--json", *args)
        created: dict[str, Any] = done.json
        return created

    async def verify(self, secret: str) -> VerifiedKey:
        """The key of a secret, as the service verifies it."""
        keys = KeyVerifier(ROOT_KEY, base_url=self.unkey_url, time_limit_secs=20)
        try:
            return await keys.verify(secret, max_age_secs=0)
        finally:
            await keys.aclose()

    def without(self, *names: str) -> None:
        """Unset variables."""
        for name in names:
            self.env.pop(name, None)


@pytest.fixture(scope="session")
def shell() -> Iterator[Shell]:
    """The process that runs commands."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", SHELL], stdin=pipe, stdout=pipe, text=True) as one:
        yield one


@pytest.fixture
async def terminal(postgres_url: str, database: Database, shell: Shell) -> AsyncIterator[Terminal]:
    unkey = UnkeySandbox()
    async with Served(unkey) as url:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "DATABASE_URL": postgres_url,
            "UNKEY_ROOT_KEY": ROOT_KEY,
            "UNKEY_API_ID": "api_sandbox",
            "UNKEY_BASE_URL": url,
            "COLUMNS": "100",
        }
        yield Terminal(env, unkey, url, database, shell)


def _exchange(shell: Shell, line: str) -> str:
    assert shell.stdin is not None
    assert shell.stdout is not None
    shell.stdin.write(line + "\n")
    shell.stdin.flush()
    return shell.stdout.readline()
