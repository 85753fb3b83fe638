"""A scripted caller: joins a call as a customer's program would, listens, talks and hangs up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import uuid4

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidURI

from flow.errors import Refused, Unavailable
from flow.sandbox.conversation import CallerEvent, CallerInterruption, Conversation, EventKind
from flow.sandbox.phone import CHUNK_BYTES, SAMPLE_RATE, Phone
from flow.sandbox.script import Script
from flow.sandbox.speech import recordings

HangUp = Literal["close", "abort", "end_api"]

_ANSWER_SECS = 30.0
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
) -> CallReport:
    """Run `script` against the service at `base_url`, in real time.

    Args:
        join: fields of the join request that take the place of the script's.
        on_progress: told of each event as it happens.
        hangup: how the caller leaves: closes the socket, lets the connection drop without a
            word, or asks ``POST /api/bot/{id}/end`` and waits to be hung up on.
        time_limit_secs: for all of it.
        idempotency_key: a new one unless given.

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

    speech = await asyncio.to_thread(_speech, script)
    conversation = Conversation(
        script, speech, sample_rate=SAMPLE_RATE, chunk_bytes=CHUNK_BYTES, on_event=note
    )
    request = script.join_request() | dict(join or {})
    limit = asyncio.timeout(time_limit_secs)
    try:
        async with limit, _service(base_url, api_key) as http:
            thread_id, url = await _join(http, request, idempotency_key or str(uuid4()))
            note(CallerEvent(EventKind.JOINED, 0.0, thread_id))
            async with _socket(url) as socket, Phone(socket, conversation, note) as phone:
                hung_up = await phone.talk()
                if hung_up:
                    await _hang_up(hangup, socket, http, thread_id)
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


def _speech(script: Script) -> dict[str, bytes]:
    lines = (line.text for line in script.lines)
    return recordings(lines, sample_rate=SAMPLE_RATE, voice=script.voice)


def _service(base_url: str, api_key: str) -> httpx.AsyncClient:
    # The service is a neighbour: the environment's proxy is not asked, here and below.
    return httpx.AsyncClient(
        base_url=base_url,
        headers={"Authorization": f"Bearer {api_key}"},
        timeout=_ANSWER_SECS,
        trust_env=False,
    )


def _socket(url: str) -> connect:
    return connect(
        url, proxy=None, compression=None, open_timeout=_ANSWER_SECS, close_timeout=_CLOSE_SECS
    )


async def _join(http: httpx.AsyncClient, request: Mapping[str, Any], key: str) -> tuple[str, str]:
    """The new thread's id and the URL of its socket."""
    answer = await http.post("/api/bot/join", json=request, headers={"Idempotency-Key": key})
    _check(answer, "the join")
    try:
        joined = answer.json()
        return str(joined["workflow_thread_id"]), str(joined["connection"]["url"])
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


async def _hang_up(
    how: HangUp, socket: ClientConnection, http: httpx.AsyncClient, thread_id: str
) -> None:
    match how:
        case "close":
            await socket.close()
        case "abort":
            socket.transport.abort()
        case "end_api":
            _check(await http.post(f"/api/bot/{thread_id}/end"), "to hang up")


def _too_long(secs: float, events: Sequence[CallerEvent]) -> str:
    last = events[-1].kind.value if events else "nothing"
    return f"The call took longer than {secs:g} s; the last thing that happened: {last}."
