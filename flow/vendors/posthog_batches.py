"""Events on their way to PostHog's batch endpoint (posthog.com/docs/api/capture, "Batch events").

The SDK's own way takes longer than all else that the gateway does with an event: for each, it reads
the release of the operating system, copies the properties four times, wakes a thread, and renders
the event twice. Here the thread wakes for a batch, and renders it once.
"""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import httpx2
import structlog
from pydantic_core import to_json

from flow.kit.tls import trusted

log = structlog.get_logger(__name__)

BATCH = 200
BATCH_BYTES = 4 << 20
"""What a batch has at most before its last event; PostHog takes 20 MB."""
MAX_EVENT_BYTES = 900 << 10
"""PostHog drops larger ones (``MAX_MSG_SIZE`` of its SDK)."""
ATTEMPTS = 4
LONGEST_PAUSE_SECS = 30.0
_COMPRESSION = 1  # Four times as fast as the usual one, and hardly larger.
_PASSING = frozenset({408, 429})

T = TypeVar("T")


class EventBatches(Generic[T]):
    """A bounded queue of events, and a thread that sends them while there are any.

    Args:
        host: PostHog's ingestion host.
        render: makes an event of what was put: ``event``, ``distinct_id``, ``properties``,
            ``timestamp`` and ``uuid``.
        max_events: how many may wait.
        interval_secs: how long an event waits for others.
        timeout_secs: for one attempt to send a batch.
        on_lost: told the reason (``dropped``, ``upload_failed``) and the number of events that
            were given up, in the thread.
    """

    def __init__(
        self,
        api_key: str,
        host: str,
        render: Callable[[T], Mapping[str, Any]],
        *,
        max_events: int,
        interval_secs: float,
        timeout_secs: float,
        on_lost: Callable[[str, int], None],
    ) -> None:
        self._api_key = api_key
        self._url = f"{host.rstrip('/')}/batch/"
        self._render = render
        self._max_events = max_events
        self._interval_secs = interval_secs
        self._timeout_secs = timeout_secs
        self._on_lost = on_lost
        self._waiting: deque[T] = deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def put(self, item: T) -> bool:
        """Queue an event; False where there is no room, or nobody to send it any more."""
        with self._changed:
            if self._closing.is_set() or len(self._waiting) >= self._max_events:
                return False
            self._waiting.append(item)
            if len(self._waiting) == 1:
                self._begin()
        return True

    def close(self) -> None:
        """Send what is queued, and take no more. Waits as long as that takes."""
        with self._changed:
            self._closing.set()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="posthog-batches", daemon=True)
            self._thread.start()
        self._changed.notify()

    def _run(self) -> None:
        with httpx2.Client(verify=trusted(), timeout=self._timeout_secs) as client:
            while self._wait():
                self._closing.wait(self._interval_secs)
                while self._waiting:
                    self._send(client)

    def _wait(self) -> bool:
        """Wait for something to send; False: nothing will come any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing.is_set())
            return bool(self._waiting)

    def _send(self, client: httpx2.Client) -> None:
        events = self._next()
        if not events:
            return
        sent_at = datetime.now(UTC).isoformat()
        head = to_json({"api_key": self._api_key, "sent_at": sent_at})[:-1]
        body = gzip.compress(head + b',"batch":[' + b",".join(events) + b"]}", _COMPRESSION)
        reason = "no attempt"
        for attempt in range(ATTEMPTS):
            reason, pause = self._attempt(client, body)
            if pause is None:
                break
            if attempt + 1 < ATTEMPTS:
                time.sleep(min(max(pause, 2**attempt), LONGEST_PAUSE_SECS))
        if reason:
            log.warning("posthog_upload_failed", events_lost=len(events), error_type=reason)
            self._on_lost("upload_failed", len(events))

    def _attempt(self, client: httpx2.Client, body: bytes) -> tuple[str, float | None]:
        """Why a batch was not taken, empty where it was, and how long to wait at least before
        another attempt; ``None``: there should be none."""
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        try:
            answer = client.post(self._url, content=body, headers=headers)
        except httpx2.HTTPError as error:
            return type(error).__name__, 0.0
        if answer.is_success:
            return "", None
        may_pass = answer.status_code >= 500 or answer.status_code in _PASSING
        return f"HTTP {answer.status_code}", _told_pause(answer) if may_pass else None

    def _next(self) -> list[bytes]:
        """The next batch, rendered."""
        events: list[bytes] = []
        size = lost = 0
        while self._waiting and len(events) < BATCH and size < BATCH_BYTES:
            event = self._rendered(self._waiting.popleft())
            if event is None or len(event) > MAX_EVENT_BYTES:
                lost += 1
            else:
                events.append(event)
                size += len(event)
        if lost:
            self._on_lost("dropped", lost)
        return events

    def _rendered(self, item: T) -> bytes | None:
        try:
            event = self._render(item)
            with suppress(ValueError):
                return to_json(event, inf_nan_mode="null")
            # Halves of characters, which only JSON's own escapes can hold.
            return json.dumps(event, allow_nan=False).encode()
        except Exception as error:
            log.error("posthog_event_not_rendered", error_type=type(error).__name__)
            return None


def _told_pause(answer: httpx2.Response) -> float:
    with suppress(ValueError):
        return max(float(answer.headers.get("retry-after", 0)), 0.0)
    return 0.0
