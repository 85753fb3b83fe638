"""The ``flow dev`` command: the service on this machine, with stand-ins for the vendors.

The stand-ins run in this process and the service in one of its own, which is restarted when the
code changes; it finds the stand-ins, as it would find the vendors, in its environment.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import httpx
import uvicorn
from rich.console import Console
from rich.table import Table

from flow.app.asgi import SERVER_OPTIONS
from flow.errors import ConfigurationError
from flow.sandbox.all_vendors import API_KEY, TEAM, Vendors, vendors
from flow.sandbox.model_vendors import MODEL_VENDORS
from flow.settings import Settings, plain_variables

DATA_DIR = Path(".flow-dev")
HOST = "127.0.0.1"
PAGES = ("talk", "console")
START_SECS = 60.0
"""How long the stand-ins may take to start; they take less than one."""

_DATABASE = ("DATABASE_URL", "SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY")
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
        ConfigurationError: the environment is wrong, the port is taken, or the stand-ins do not
            start.
    """
    port = _free(port)
    # uvicorn raises a signal that it got once more when it has stopped; what is left here is
    # cleared up then.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    absent = frozenset(
        name
        for name, variables in _VARIABLES.items()
        if not any(os.environ.get(variable) for variable in variables)
    )
    running = _stand_ins(absent)
    found = _fill_environment(running, absent)
    settings, url = Settings.read(), f"http://{HOST}:{port}"
    key = API_KEY if "unkey" in absent else "your key at Unkey"
    os.environ["FLOW_DEV_KEY"] = API_KEY if "unkey" in absent else ""
    say = Console(highlight=False, soft_wrap=True)
    say.print("Flow starts ...", style="dim")

    # Commands judge by the settings of the service, as of which addresses an agent may call.
    own = {name: os.environ[name] for name in plain_variables() if os.environ.get(name)}
    at = {"FLOW_DEV_URL": url, "FLOW_DEV_KEY": key, "FLOW_PORT": str(port)}
    for_shells = {**own, **found, **at}
    # No secret of the operator's own goes to disk.
    elsewhere = sorted(
        name
        for name in {*_DATABASE, *(name for names in _VARIABLES.values() for name in names)}
        if os.environ.get(name) and name not in found
    )
    with _environment_file(settings.data_dir, for_shells) as file:

        def announce() -> None:
            _wait_for(url)
            # At once: the service logs meanwhile, its answer to the question above first.
            time.sleep(0.2)
            with say.capture() as banner:
                _announce(say, url, settings, running, absent, key)
                _announce_shell(say, file, elsewhere)
            sys.stdout.write(banner.get())
            sys.stdout.flush()

        threading.Thread(target=announce, name="banner", daemon=True).start()
        uvicorn.run(
            "flow.app.asgi:development",
            factory=True,
            host=HOST,
            port=port,
            reload=reload,
            reload_dirs=[str(Path(__file__).parent)] if reload else None,
            **SERVER_OPTIONS,
        )


def _free(port: int) -> int:
    """The port, or a free one for 0.

    Raises:
        ConfigurationError: somebody listens on it.
    """
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((HOST, port))
        except OSError as error:
            raise ConfigurationError(
                f"Port {port} cannot be listened on ({error.strerror}): `flow dev --port 0` takes"
                " a free one."
            ) from None
        bound: int = one.getsockname()[1]
        return bound


def _stand_ins(absent: Collection[str]) -> Vendors:
    """Start them in a thread of their own; they run as long as this process."""
    started: Future[Vendors] = Future()

    async def stand_in() -> None:
        try:
            async with vendors(models=MODEL_VENDORS.keys() & absent) as running:
                started.set_result(running)
                await asyncio.Event().wait()
        except Exception as error:
            if started.done():
                raise
            started.set_exception(error)

    threading.Thread(target=asyncio.run, args=(stand_in(),), name="vendors", daemon=True).start()
    try:
        return started.result(START_SECS)
    except Exception as error:
        why = str(error) or f"{type(error).__name__} after {START_SECS:.0f} s at most"
        raise ConfigurationError(f"The vendors' stand-ins did not start: {why}") from error


def _wait_for(url: str) -> None:
    """Return when the service at ``url`` takes calls, however long its code is broken."""
    with httpx.Client(trust_env=False, timeout=5) as http:
        while True:
            try:
                if http.get(f"{url}/readyz").is_success:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)


@contextmanager
def _environment_file(folder: Path, variables: Mapping[str, str]) -> Iterator[Path]:
    """A file for shells, to use the same database and stand-ins; it goes when they do."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "env"
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    # Where this `flow` is, which need not be on everybody's path.
    lines.append(f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"')
    file.touch(0o600)
    file.chmod(0o600)
    file.write_text("\n".join([*lines, ""]))
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)


def _fill_environment(stood_in: Vendors, absent: Collection[str]) -> dict[str, str]:
    """Name the stand-ins of the absent vendors in the environment of the service; what is in it
    now, by these names."""
    found = stood_in.environment
    defaults = {
        "FLOW_LOG_FORMAT": "console",
        "FLOW_DATA_DIR": str(DATA_DIR.resolve()),
        **{variable: found[variable] for name in absent for variable in _VARIABLES[name]},
    }
    # An empty variable counts as not set.
    os.environ.update({name: value for name, value in defaults.items() if not os.environ.get(name)})
    return {name: os.environ[name] for name in defaults}


def _announce(
    console: Console,
    url: str,
    settings: Settings,
    stood_in: Vendors,
    absent: Collection[str],
    key: str,
) -> None:
    say = console.print
    say(f"\n[bold]Flow[/bold]  {url}   docs {url}/docs   data {settings.data_dir}")
    static = Path(__file__).parent / "web" / "static"
    for page in PAGES:
        if (static / f"{page}.html").exists():
            say(f"{page:<7} [bold]{url}/{page}[/bold]")
    pages = {
        **{name: f"{at}/_sandbox/bill" for name, at in stood_in.model_urls.items()},
        "posthog": f"{stood_in.posthog_url}/_sandbox/events",
        "unkey": f"{stood_in.unkey_url}/_sandbox/verifications",
    }
    stand_ins = Table.grid(padding=(0, 2))
    for name in sorted(absent):
        stand_ins.add_row("stand-in for", name, pages[name])
    say(stand_ins, style="dim")
    whose = f"   of the team {TEAM}" if "unkey" in absent else ""
    say(f"API key: [bold]{key}[/bold]{whose}\nTry:")
    say(
        f"  curl -s -X POST {url}/api/bot/join -H 'Authorization: Bearer {key}'"
        " -H 'Content-Type: application/json' -d '{}'"
    )


def _announce_shell(console: Console, file: Path, elsewhere: Sequence[str]) -> None:
    """How to use the same database and stand-ins from another terminal.

    Args:
        elsewhere: the variables that this environment has and the file has not.
    """
    say = console.print
    say("On this database and these stand-ins, from another terminal:")
    if elsewhere:
        say(f"  # export there as here: {', '.join(elsewhere)}")
    say(f"  . {shlex.quote(_near(file))}")
    say("  flow keys list; flow usage; flow webhooks list; flow doctor")
    say('  curl -s $FLOW_DEV_URL/api/limits -H "Authorization: Bearer $FLOW_DEV_KEY"\n')


def _near(file: Path) -> str:
    """The file as it is called from here, where that is shorter."""
    return str(file.relative_to(Path.cwd())) if file.is_relative_to(Path.cwd()) else str(file)
