"""The ``flow dev`` command: the service on this machine, with stand-ins for the vendors.

The stand-ins run in this process and the service in one of its own, which is restarted when the
code changes; it finds the stand-ins, as it would find the vendors, in its environment.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Collection
from pathlib import Path

import uvicorn
from rich.console import Console
from rich.table import Table

from flow.app.asgi import SERVER_OPTIONS
from flow.sandbox.all_vendors import API_KEY, Vendors, vendors
from flow.sandbox.model_vendors import MODEL_VENDORS
from flow.settings import Settings

DATA_DIR = Path(".flow-dev")

_VARIABLES = {
    "unkey": ("UNKEY_ROOT_KEY", "UNKEY_API_ID", "UNKEY_BASE_URL"),
    "posthog": (
        *("POSTHOG_API_KEY", "POSTHOG_HOST"),
        *("POSTHOG_PERSONAL_API_KEY", "POSTHOG_PROJECT_ID"),
    ),
    **{name: (vendor.key, vendor.base_url) for name, vendor in MODEL_VENDORS.items()},
}


def run(*, port: int, reload: bool) -> None:
    """Serve until interrupted. What the environment already names is used instead of a stand-in.

    Raises:
        ConfigurationError: the environment is wrong.
    """
    absent = frozenset(
        name
        for name, variables in _VARIABLES.items()
        if not any(os.environ.get(variable) for variable in variables)
    )
    ready = threading.Event()
    running: list[Vendors] = []

    async def stand_in() -> None:
        async with vendors(models=absent & MODEL_VENDORS.keys()) as started:
            running.append(started)
            ready.set()
            await asyncio.Event().wait()

    threading.Thread(target=asyncio.run, args=(stand_in(),), name="vendors", daemon=True).start()
    ready.wait()
    _fill_environment(running[0], absent)
    settings = Settings.read()
    _announce(f"http://127.0.0.1:{port}", settings, running[0], absent)
    uvicorn.run(
        "flow.app.asgi:application",
        factory=True,
        host="127.0.0.1",
        port=port,
        reload=reload,
        reload_dirs=[str(Path(__file__).parent)] if reload else None,
        **SERVER_OPTIONS,
    )


def _fill_environment(stood_in: Vendors, absent: Collection[str]) -> None:
    """Name the stand-ins of the absent vendors in the environment of the service."""
    found = stood_in.environment
    defaults = {
        "FLOW_LOG_FORMAT": "console",
        "FLOW_DATA_DIR": str(DATA_DIR.resolve()),
        **{variable: found[variable] for name in absent for variable in _VARIABLES[name]},
    }
    # An empty variable counts as not set.
    os.environ.update({name: value for name, value in defaults.items() if not os.environ.get(name)})


def _announce(url: str, settings: Settings, stood_in: Vendors, absent: Collection[str]) -> None:
    say = Console(highlight=False, soft_wrap=True).print
    key = API_KEY if "unkey" in absent else "your key at Unkey"
    say(f"[bold]Flow[/bold]  {url}   docs {url}/docs   data {settings.data_dir}")
    pages = {
        **{name: f"{at}/_sandbox/bill" for name, at in stood_in.model_urls.items()},
        "posthog": f"{stood_in.posthog_url}/_sandbox/events",
        "unkey": f"{stood_in.unkey_url}/_sandbox/verifications",
    }
    stand_ins = Table.grid(padding=(0, 2))
    for name in sorted(absent):
        stand_ins.add_row("stand-in for", name, pages[name])
    say(stand_ins, style="dim")
    say(f"API key: [bold]{key}[/bold]\nTry:")
    say(
        f"  curl -s -X POST {url}/api/bot/join -H 'Authorization: Bearer {key}'"
        " -H 'Content-Type: application/json' -d '{}'"
    )
