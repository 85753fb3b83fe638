"""PostHog: captures generations, traces and other events for analytics. Bills come of the ledger.

Nothing here waits for PostHog or fails because of it: an event goes into a bounded queue, a
thread sends it, and when the queue is full or PostHog does not answer the event is dropped with
a line in the log. A lost capture loses no money.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

import structlog
from posthog import Posthog
from pydantic import SecretStr

from flow.domain.usage.events import Owner, UsageEvent
from flow.domain.usage.posthog_properties import (
    EVENT_NAMES,
    Content,
    generation_properties,
    trace_properties,
)
from flow.vendors.posthog_batches import EventBatches

log = structlog.get_logger(__name__)

QUEUED_EVENTS = 10_000
QUEUED_EVENTS_WITH_CONTENT = 1_000
UPLOAD_TIMEOUT_SECS = 10.0
FLAG_TIMEOUT_SECS = 1.5
FLUSH_INTERVAL_SECS = 1.0
SHUTDOWN_SECS = 3.0

# Whoever sends events is a server, whose place is nobody's.
_SENDER = {"$lib": "flow", "$geoip_disable": True}

OnSent = Callable[[int], None]
"""Called with the number of events queued for PostHog, in any thread."""

OnLost = Callable[[str, int], None]
"""Called with the reason (``dropped``, ``upload_failed``) and the number of events that PostHog
will not get, in any thread."""


class CountingPosthog(Posthog):
    """A client that reports of each event whether it was queued or dropped.

    Generations, of which there are many, have a queue of their own.
    """

    def __init__(
        self,
        api_key: str,
        *,
        host: str,
        max_queue_size: int,
        on_sent: OnSent,
        on_lost: OnLost,
        **options: Any,
    ) -> None:
        self._on_sent = on_sent
        self._on_lost = on_lost
        self._generations = EventBatches(
            api_key,
            host,
            _generation,
            max_events=max_queue_size,
            interval_secs=FLUSH_INTERVAL_SECS,
            timeout_secs=UPLOAD_TIMEOUT_SECS,
            on_lost=on_lost,
        )
        super().__init__(api_key, host=host, max_queue_size=max_queue_size, **options)

    def capture_generation(self, event: UsageEvent, content: Content | None) -> bool:
        """Queue a generation; whether it was queued. Never raises."""
        is_queued = self._generations.put((event, content))
        if is_queued:
            self._on_sent(1)
        else:
            self._on_lost("dropped", 1)
        return is_queued

    def capture(self, event: str, **arguments: Any) -> str | None:
        """Queue an event; the id it was queued under, or ``None``. Never raises."""
        queued: str | None = super().capture(event, **arguments)
        if queued is None:
            self._on_lost("dropped", 1)
        else:
            self._on_sent(1)
        return queued

    def shutdown(self) -> None:
        """Send what is queued and stop for good: `get_posthog_client` then makes a new client."""
        _clients.forget(self)
        self._generations.close()
        super().shutdown()


class _Clients:
    """The clients of this process that are not shut down, by their arguments."""

    def __init__(self) -> None:
        self._by_arguments: dict[tuple[object, ...], CountingPosthog] = {}
        self._lock = threading.Lock()

    def get(
        self, arguments: tuple[object, ...], make: Callable[[], CountingPosthog]
    ) -> CountingPosthog:
        with self._lock:
            if (client := self._by_arguments.get(arguments)) is None:
                client = self._by_arguments[arguments] = make()
            return client

    def forget(self, client: Posthog) -> None:
        with self._lock:
            for arguments, known in list(self._by_arguments.items()):
                if known is client:
                    del self._by_arguments[arguments]


# A queue and a thread each: the one thing of a process that must not depend on who asks for it.
_clients = _Clients()


def _nothing(*_: object) -> None:
    pass


def get_posthog_client(
    api_key: SecretStr | None,
    host: str,
    *,
    capture_content: bool = False,
    on_sent: OnSent = _nothing,
    on_lost: OnLost = _nothing,
) -> CountingPosthog | None:
    """The process's client, which sends in the background; ``None`` without a project key.

    The same arguments give the same client, until `shutdown_posthog` ends it. Building it opens
    no connection, so a host that is down does no harm.

    Args:
        api_key: PostHog's project key (``POSTHOG_API_KEY``).
        host: where events go (``POSTHOG_HOST``).
        capture_content: let PostHog's OpenAI wrapper send prompts and answers too.
        on_sent: told of events that were queued. One that the upload loses is told to
            ``on_lost`` too.
        on_lost: told of events that are given up.
    """
    key = api_key.get_secret_value().strip() if api_key is not None else ""
    if not key:
        return None
    return _clients.get(
        (key, host, capture_content, on_sent, on_lost),
        lambda: _client(
            key, host, capture_content=capture_content, on_sent=on_sent, on_lost=on_lost
        ),
    )


def _client(
    key: str, host: str, *, capture_content: bool, on_sent: OnSent, on_lost: OnLost
) -> CountingPosthog:
    def upload_failed(error: Exception, batch: Sequence[Any]) -> None:
        lost = len(batch)
        log.warning("posthog_upload_failed", events_lost=lost, error_type=type(error).__name__)
        on_lost("upload_failed", lost)

    return CountingPosthog(
        key,
        host=host,
        # An event with content may hold a whole conversation: fewer of them may wait.
        max_queue_size=QUEUED_EVENTS_WITH_CONTENT if capture_content else QUEUED_EVENTS,
        gzip=True,
        flush_interval=FLUSH_INTERVAL_SECS,
        timeout=UPLOAD_TIMEOUT_SECS,
        feature_flags_request_timeout_seconds=FLAG_TIMEOUT_SECS,
        on_error=upload_failed,
        on_sent=on_sent,
        on_lost=on_lost,
        privacy_mode=not capture_content,
        debug=False,
        sync_mode=False,
        disable_geoip=True,
        enable_exception_autocapture=False,
        enable_local_evaluation=False,
    )


async def shutdown_posthog(client: Posthog | None, timeout_secs: float = SHUTDOWN_SECS) -> bool:
    """Send what is queued and stop; False when time ran out first.

    The SDK's own shutdown waits for PostHog as long as PostHog likes. Here it runs on a daemon
    thread, which is left behind when it takes too long.
    """
    if client is None:
        return True
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def shut_down() -> None:
        try:
            client.shutdown()
        finally:
            with suppress(RuntimeError):  # nobody waits any more and the loop is closed
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=shut_down, name="posthog-shutdown", daemon=True).start()
    try:
        await asyncio.wait_for(done.wait(), timeout_secs)
    except TimeoutError:
        log.warning("posthog_shutdown_timed_out", waited_secs=timeout_secs)
        return False
    return True


def capture_llm_generation(
    client: CountingPosthog | None, event: UsageEvent, *, content: Content | None = None
) -> bool:
    """Queue one ``$ai_generation`` or ``$ai_embedding`` for an event; whether it was queued.

    The event's id is PostHog's ``uuid``, so that capturing twice is the same event. Nothing is
    captured for call minutes, which are no generation, nor for what somebody else captures
    (``event.capture`` false).
    """
    if client is None or not event.capture or event.kind not in EVENT_NAMES:
        return False
    return client.capture_generation(event, content)


def generation_arguments(event: UsageEvent, content: Content | None = None) -> dict[str, Any]:
    """What ``Posthog.capture`` is given for an event."""
    return {
        "distinct_id": _distinct_id(event),
        "properties": generation_properties(event, content),
        "timestamp": event.occurred_at,
        "uuid": str(event.id),
        "groups": _groups(event.owner),
    }


def _generation(captured: tuple[UsageEvent, Content | None]) -> dict[str, Any]:
    """A generation as PostHog's batch endpoint takes it."""
    event, content = captured
    said = generation_properties(event, content)
    if groups := _groups(event.owner):
        said["$groups"] = groups
    said |= _SENDER
    return {
        "event": EVENT_NAMES[event.kind],
        "distinct_id": _distinct_id(event),
        "properties": said,
        "timestamp": event.occurred_at.isoformat(),
        "uuid": str(event.id),
    }


def capture_trace(
    client: Posthog | None,
    owner: Owner,
    *,
    started_at: datetime,
    ended_at: datetime,
    error: str | None = None,
    content: Content | None = None,
) -> bool:
    """Queue the one ``$ai_trace`` of a finished call; whether it was queued.

    It carries no cost (PostHog would count it twice). Its ``uuid`` follows from the thread's
    id, so that a repeated step captures the same event. ``error`` names what ended the call, if
    it failed, and holds nothing that was said. Work that belongs to no thread has no trace here.
    """
    if client is None or owner.workflow_thread_id is None:
        return False
    queued = client.capture(
        "$ai_trace",
        distinct_id=str(owner.api_key_id),
        properties=trace_properties(owner, started_at, ended_at, error, content),
        timestamp=started_at,
        uuid=str(trace_uuid(owner.workflow_thread_id)),
        groups=_groups(owner),
    )
    return queued is not None


def trace_uuid(thread_id: UUID) -> UUID:
    """The id of a thread's ``$ai_trace`` event."""
    return uuid5(thread_id, "$ai_trace")


def _distinct_id(event: UsageEvent) -> str:
    return event.ids.distinct_id or str(event.owner.api_key_id)


def _groups(owner: Owner) -> dict[str, str]:
    return {"team": owner.team_id} if owner.team_id else {}
