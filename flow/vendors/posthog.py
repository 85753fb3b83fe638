"""PostHog: what happened, for people to look at. The ledger, not this, is for billing.

Nothing here waits for PostHog or fails because of it: an event goes into a bounded queue, a
thread sends it, and when the queue is full or PostHog does not answer the event is dropped with
a line in the log. A lost capture loses no money.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

import structlog
from posthog import Posthog
from pydantic import SecretStr

from flow.domain.analytics import Content, generation_properties, trace_properties
from flow.domain.usage import Kind, Owner, UsageEvent
from flow.vendors.posthog_wrapper import CompletingPosthog, OnLost, Price

log = structlog.get_logger(__name__)

QUEUED_EVENTS = 10_000
QUEUED_EVENTS_WITH_CONTENT = 1_000
UPLOAD_TIMEOUT_SECS = 10.0
FLAG_TIMEOUT_SECS = 1.5
FLUSH_INTERVAL_SECS = 1.0
SHUTDOWN_SECS = 3.0


def get_posthog_client(
    api_key: SecretStr | None,
    host: str,
    *,
    capture_content: bool = False,
    price: Price | None = None,
    on_lost: OnLost = lambda _reason, _events: None,
) -> Posthog | None:
    """A client that sends in the background, or ``None`` when there is no project key.

    Building it opens no connection, so a host that is down does no harm. One client serves a
    process; end it with `shutdown_posthog`.

    Args:
        api_key: PostHog's project key (``POSTHOG_API_KEY``).
        host: where events go (``POSTHOG_HOST``).
        capture_content: let PostHog's OpenAI wrapper send prompts and answers too.
        price: puts costs on what that wrapper captures with this client.
        on_lost: told of events that are given up.
    """
    if api_key is None or not api_key.get_secret_value().strip():
        return None

    def upload_failed(error: Exception, batch: Sequence[Any]) -> None:
        lost = len(batch)
        log.warning("posthog_upload_failed", events_lost=lost, error_type=type(error).__name__)
        on_lost("upload_failed", lost)

    return CompletingPosthog(
        api_key.get_secret_value(),
        host=host,
        # An event with content may hold a whole conversation: fewer of them may wait.
        max_queue_size=QUEUED_EVENTS_WITH_CONTENT if capture_content else QUEUED_EVENTS,
        gzip=True,
        flush_interval=FLUSH_INTERVAL_SECS,
        timeout=UPLOAD_TIMEOUT_SECS,
        feature_flags_request_timeout_seconds=FLAG_TIMEOUT_SECS,
        on_error=upload_failed,
        price=price,
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
    client: Posthog | None, event: UsageEvent, *, content: Content | None = None
) -> bool:
    """Queue one ``$ai_generation`` for an LLM, TTS or STT event; whether it was queued.

    The event's id is PostHog's ``uuid``, so that capturing twice is the same event. Nothing is
    captured for call minutes, which are no generation, nor for what somebody else captures
    (``event.capture`` false).
    """
    if client is None or not event.capture or event.kind is Kind.CALL:
        return False
    queued = client.capture(
        "$ai_generation",
        distinct_id=str(event.owner.api_key_id),
        properties=generation_properties(event, content),
        timestamp=event.occurred_at,
        uuid=str(event.id),
        groups=_groups(event.owner),
    )
    return queued is not None


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
    it failed, and holds nothing that was said.
    """
    if client is None:
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


def _groups(owner: Owner) -> dict[str, str]:
    return {"team": owner.team_id} if owner.team_id else {}
