"""A scripted caller: joins a call as a customer's program would, listens, talks and hangs up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from uuid import uuid4

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, InvalidURI

from flow.errors import Refused, Unavailable
from flow.kit.tls import trusted
from flow.sandbox.callers.conversation import (
    CallerEvent,
    CallerInterruption,
    Conversation,
    EventKind,
)
from flow.sandbox.callers.pipecat_phone import CHUNK_BYTES, SAMPLE_RATE, Phone
from flow.sandbox.callers.script import Script
from flow.sandbox.speech.synthesis import recordings

HangUp = Literal["close", "abort", "end_api"]

_ANSWER_SECS = 60.0
_CLOSE_SECS = 2.0


@dataclass(frozen=True, slots=True)
class CallReport:
    """A call as its caller saw it.

    Attributes:
        seconds_sent: audio sent, speech and silence.
        seconds_heard: audio of the bot that sounded; what an interruption cut off did not.
        ended_by: who ended the call.
    """

    workflow_thread_id: str
    seconds_sent: float
    seconds_heard: float
    events: tuple[CallerEvent, ...]
    interruptions: tuple[CallerInterruption, ...]
    ended_by: Literal["caller", "service"]

    @property
    def closed(self) -> str:
        """Code and reason that the WebSocket was closed with, in one text; empty without one."""
        said = [event.detail for event in self.events if event.kind is EventKind.CLOSED]
        return said[-1] if said else ""

    @property
    def interrupted_after_secs(self) -> float | None:
        """For how long the bot had been speaking when it was first interrupted, if it was."""
        return self.interruptions[0].after_secs if self.interruptions else None

    @property
    def silenced_after_secs(self) -> float | None:
        """For how long the bot went on speaking after it was first interrupted."""
        if not self.interruptions:
            return None
        begun = self.interruptions[0].at_secs
        stops = (e.at_secs for e in self.events if e.kind is EventKind.BOT_STOPPED)
        return next((at - begun for at in stops if at >= begun), None)


class Carrier(Protocol):
    """Who carries a call between the caller and the service."""

    @property
    def transport(self) -> str:
        """The transport of the join."""
        ...

    @property
    def sample_rate(self) -> int:
        """Of what the caller's microphone gives."""
        ...

    @property
    def chunk_bytes(self) -> int:
        """How much it gives every 20 ms."""
        ...

    def phone(
        self,
        http: httpx.AsyncClient,
        connection: Mapping[str, Any],
        conversation: Conversation,
        on_event: Callable[[CallerEvent], None],
    ) -> AbstractAsyncContextManager[Phone]:
        """A phone that is connected as a join's answer says."""
        ...


@dataclass(frozen=True, slots=True)
class Internet:
    """Straight to the service's own WebSocket; ``phone_class`` is one that speaks RTVI where
    the join asks for it."""

    phone_class: type[Phone] = Phone
    transport: str = "websocket"
    sample_rate: int = SAMPLE_RATE
    chunk_bytes: int = CHUNK_BYTES

    @asynccontextmanager
    async def phone(
        self,
        http: httpx.AsyncClient,
        connection: Mapping[str, Any],
        conversation: Conversation,
        on_event: Callable[[CallerEvent], None],
    ) -> AsyncIterator[Phone]:
        """A phone on the socket of the join's answer."""
        async with (
            open_socket(connection["url"]) as socket,
            self.phone_class(socket, conversation, on_event) as phone,
        ):
            yield phone


async def call(
    base_url: str,
    api_key: str,
    script: Script,
    *,
    join: Mapping[str, Any] | None = None,
    on_progress: Callable[[CallerEvent], None] | None = None,
    hangup: HangUp = "close",
    time_limit_secs: float = 180.0,
    idempotency_key: str | None = None,
    carrier: Carrier = Internet(),
) -> CallReport:
    """Run `script` against the service at `base_url`, in real time.

    Args:
        join: fields of the join request that take the place of the script's.
        on_progress: told of each event as it happens.
        hangup: how the caller leaves: closes the socket, lets the connection drop without a
            word, or asks ``POST /api/bot/{id}/end`` and waits to be hung up on.
        time_limit_secs: for all of it.
        idempotency_key: a new one unless given.
        carrier: by which way the caller calls.

    Raises:
        Refused: the service refuses the join or the hanging up; with its own code.
        Unavailable: the service cannot be reached, or the call takes longer than its limit.
        InvalidInput: the service sends what is no frame.
    """
    events: list[CallerEvent] = []

    def note(event: CallerEvent) -> None:
        events.append(event)
        if on_progress:
            on_progress(event)

    rate, size = carrier.sample_rate, carrier.chunk_bytes
    speech = await asyncio.to_thread(_speech, script, rate)
    conversation = Conversation(script, speech, sample_rate=rate, chunk_bytes=size, on_event=note)
    transport = {"transport": {"type": carrier.transport}}
    request = script.join_request() | transport | dict(join or {})
    limit = asyncio.timeout(time_limit_secs)
    try:
        async with limit, _service(base_url, api_key) as http:
            thread_id, connection = await _join(http, request, idempotency_key or str(uuid4()))
            note(CallerEvent(EventKind.JOINED, 0.0, thread_id))
            async with carrier.phone(http, connection, conversation, note) as phone:
                hung_up = await phone.talk()
                if hung_up:
                    await _hang_up(hangup, phone, http, thread_id)
                await phone.ended()
    except TimeoutError:
        if limit.expired():
            raise Unavailable(_too_long(time_limit_secs, events)) from None
        raise Unavailable(f"The service at {base_url} does not answer.") from None
    except (httpx.TransportError, InvalidURI, InvalidHandshake, OSError) as error:
        raise Unavailable(f"The service at {base_url} cannot be reached: {error}") from None
    return CallReport(
        workflow_thread_id=thread_id,
        seconds_sent=phone.seconds_sent,
        seconds_heard=conversation.playback.heard_secs(phone.now()),
        events=tuple(events),
        interruptions=tuple(conversation.interruptions),
        ended_by="caller" if hung_up else "service",
    )


def _speech(script: Script, sample_rate: int) -> dict[str, bytes]:
    lines = (line.text for line in script.lines)
    return recordings(lines, sample_rate=sample_rate, voice=script.voice)


def _service(base_url: str, api_key: str) -> httpx.AsyncClient:
    # The service is a neighbour: the environment's proxy is not asked, here and below.
    return httpx.AsyncClient(
        base_url=base_url,
        headers={"Authorization": f"Bearer {api_key}"},
        timeout=_ANSWER_SECS,
        trust_env=False,
        verify=trusted(),
    )


def open_socket(url: str) -> connect:
    """A socket of the service, as an asynchronous context manager."""
    return connect(
        url, proxy=None, compression=None, open_timeout=_ANSWER_SECS, close_timeout=_CLOSE_SECS
    )


async def _join(
    http: httpx.AsyncClient, request: Mapping[str, Any], key: str
) -> tuple[str, dict[str, Any]]:
    """The new thread's id and how to connect to it."""
    answer = await http.post("/api/bot/join", json=request, headers={"Idempotency-Key": key})
    _check(answer, "the join")
    try:
        joined = answer.json()
        connection = {**joined["connection"], "url": str(joined["connection"]["url"])}
        return str(joined["workflow_thread_id"]), connection
    except (ValueError, TypeError, KeyError) as error:
        raise Unavailable(f"The service's answer to the join is not usable: {error!r}") from None


def _check(answer: httpx.Response, what: str) -> None:
    if answer.is_success:
        return
    try:
        problem = dict(answer.json())
    except ValueError:
        problem = {}
    code = str(problem.get("code", f"http_{answer.status_code}"))
    detail = problem.get("detail") or problem.get("title") or answer.reason_phrase
    message = f"The service refused {what} with {answer.status_code} {code}: {detail}"
    retry_after = answer.headers.get("Retry-After", "")
    raise Refused(code, message, int(retry_after) if retry_after.isdecimal() else None)


async def _hang_up(how: HangUp, phone: Phone, http: httpx.AsyncClient, thread_id: str) -> None:
    match how:
        case "close":
            await phone.hang_up()
        case "abort":
            phone.drop()
        case "end_api":
            _check(await http.post(f"/api/bot/{thread_id}/end"), "to hang up")


def _too_long(secs: float, events: Sequence[CallerEvent]) -> str:
    last = events[-1].kind.value if events else "nothing"
    return f"The call took longer than {secs:g} s; the last thing that happened: {last}."
