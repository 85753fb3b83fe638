"""The ``flow dev`` command: the service on this machine, with stand-ins for the vendors.

The stand-ins run in this process and the service in one of its own, which is restarted when the
code changes; it finds the stand-ins, as it would find the vendors, in its environment.
"""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import uvicorn
from rich.console import Console

from flow.app.asgi import SERVER_OPTIONS
from flow.sandbox.all_vendors import API_KEY, Vendors, vendors
from flow.settings import Settings

DATA_DIR = Path(".flow-dev")


def run(*, port: int, reload: bool) -> None:
    """Serve until interrupted. What the environment already names is used instead of a stand-in.

    Raises:
        ConfigurationError: the environment is wrong.
    """
    ready = threading.Event()
    running: list[Vendors] = []

    async def stand_in() -> None:
        async with vendors() as started:
            running.append(started)
            ready.set()
            await asyncio.Event().wait()

    threading.Thread(target=asyncio.run, args=(stand_in(),), name="vendors", daemon=True).start()
    ready.wait()
    given = _fill_environment(running[0])
    settings = Settings.read()
    _announce(f"http://127.0.0.1:{port}", settings, running[0], given)
    uvicorn.run(
        "flow.app.asgi:application",
        factory=True,
        host="127.0.0.1",
        port=port,
        reload=reload,
        reload_dirs=[str(Path(__file__).parent)] if reload else None,
        **SERVER_OPTIONS,
    )


def _fill_environment(stood_in: Vendors) -> set[str]:
    """Stand in for each vendor the environment does not name; returns those it names."""
    given = set()
    defaults = {
        "FLOW_LOG_FORMAT": "console",
        "FLOW_DATA_DIR": str(DATA_DIR.resolve()),
        **stood_in.environment,
    }
    for vendor in ("OPENAI", "UNKEY", "POSTHOG"):
        if any(os.environ.get(name) for name in defaults if name.startswith(vendor)):
            given.add(vendor)
    for name, value in defaults.items():
        if name.partition("_")[0] not in given:
            os.environ.setdefault(name, value)
    return given


def _announce(url: str, settings: Settings, stood_in: Vendors, given: set[str]) -> None:
    say = Console(highlight=False).print
    key = "your key at Unkey" if "UNKEY" in given else API_KEY
    say(f"[bold]Flow[/bold]  {url}   docs {url}/docs   data {settings.data_dir}")
    for vendor, where in (
        ("OPENAI", f"{stood_in.openai_url}/_sandbox/bill"),
        ("POSTHOG", f"{stood_in.posthog_url}/_sandbox/events"),
        ("UNKEY", f"{stood_in.unkey_url}/_sandbox/verifications"),
    ):
        if vendor not in given:
            say(f"[dim]stand-in for {vendor}: {where}[/dim]")
    say(f"API key: [bold]{key}[/bold]\nTry:")
    say(
        f"  curl -s -X POST {url}/api/bot/join -H 'Authorization: Bearer {key}'"
        " -H 'Content-Type: application/json' -d '{}'",
        soft_wrap=True,
    )
