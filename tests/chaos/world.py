"""What an experiment has at hand: a Postgres of its own, stand-ins, hosts, workers and callers."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
from websockets.exceptions import WebSocketException

from flow.errors import FlowError, Refused
from flow.sandbox.all_vendors import Vendors
from flow.sandbox.callers.caller import CallReport, HangUp, call
from flow.sandbox.callers.conversation import CallerEvent, EventKind
from flow.sandbox.callers.script import Script
from tests.calls.processes import FlowProcess, flow_worker
from tests.calls.test_call import SHORT, stood_in
from tests.chaos.hosts import Host
from tests.chaos.postgres import Postgres


@dataclass(frozen=True, slots=True)
class World:
    """One experiment's world. ``folder`` is empty at first, and gone at its end."""

    folder: Path
    postgres: Postgres
    hosts: list[Host] = field(default_factory=list)

    def vendors(
        self, script: Script = SHORT, models: Collection[str] = ()
    ) -> AbstractAsyncContextManager[Vendors]:
        """The vendors' stand-ins, where the model and the ears know this script; ``models`` are
        the vendors of models beside OpenAI."""
        return stood_in(script, models)

    def host(self, standing: Vendors, *arguments: str, name: str = "host", **settings: str) -> Host:
        """A ``flow serve``, to be entered; hosts of one name share their data folder."""
        host = Host(standing, self.postgres.url, self.data(name), *arguments, **settings)
        self.hosts.append(host)
        return host

    def worker(
        self, standing: Vendors, *, name: str = "worker"
    ) -> AbstractAsyncContextManager[FlowProcess]:
        """A ``flow worker``; entered again after it was killed, it is the same one."""
        return flow_worker(standing, self.postgres.url, self.data(name))

    def data(self, name: str) -> Path:
        """The data folder of a host or worker."""
        return self.folder / name


@asynccontextmanager
async def world(logs: Path | None = None) -> AsyncIterator[World]:
    """A world with its Postgres running. ``logs``: where to keep what hosts log, if anywhere."""
    # Short, and open to the user that Postgres runs as where this one is root.
    folder = Path(tempfile.mkdtemp(prefix="flow-chaos-"))
    folder.chmod(0o755)
    made = World(folder, Postgres(folder / "pg"))
    try:
        await made.postgres.start()
        yield made
    finally:
        if logs is not None:
            logs.mkdir(parents=True, exist_ok=True)
            for number, host in enumerate(made.hosts):
                name = f"{number}-{host.folder.name}.log"
                (logs / name).write_text(host.text)
        await made.postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)


def customer(url: str, standing: Vendors, *, at_once: int = 100) -> httpx.AsyncClient:
    """A customer's program: a client of the service at ``url`` with the key that works."""
    # It lets go of an idle connection before the service does, which would look like a failure.
    limits = httpx.Limits(max_connections=at_once, keepalive_expiry=1.0)
    headers = {"Authorization": f"Bearer {standing.api_key}"}
    return httpx.AsyncClient(
        base_url=url, headers=headers, timeout=60, trust_env=False, limits=limits
    )


@dataclass(slots=True)
class Caller:
    """A caller: ``await Caller().call(...)``. All is noted as it happens, and nothing raised.

    Attributes:
        thread_id: of the join, if there was one.
        refusal: the service's code, if it refused the call.
        failure: how else the call broke off, if it did.
        report: the call, if it was held to its end.
        events, times: what happened, and when by `time.monotonic`.
    """

    thread_id: str | None = None
    refusal: str | None = None
    failure: str | None = None
    report: CallReport | None = None
    events: list[CallerEvent] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    async def call(
        self,
        url: str,
        standing: Vendors,
        script: Script = SHORT,
        *,
        join: Mapping[str, Any] | None = None,
        hangup: HangUp = "close",
        time_limit_secs: float = 120.0,
    ) -> Caller:
        """Join at ``url``, connect, and talk to the end of the script or of the call."""
        bot = {"system_prompt": SHORT.system_prompt, "greeting": script.greeting}
        try:
            self.report = await call(
                url,
                standing.api_key,
                script,
                join={"bot": bot} | dict(join or {}),
                on_progress=self._note,
                hangup=hangup,
                time_limit_secs=time_limit_secs,
            )
        except Refused as refused:
            self.refusal = refused.code
        except (FlowError, WebSocketException, OSError) as error:
            self.failure = f"{type(error).__name__}: {error}"
        return self

    def has(self, kind: EventKind) -> bool:
        """Whether something of that kind has happened so far."""
        return any(event.kind is kind for event in self.events)

    def _note(self, event: CallerEvent) -> None:
        self.events.append(event)
        self.times.append(monotonic())
        if event.kind is EventKind.JOINED:
            self.thread_id = event.detail
