"""The recorder of a service, and the publisher of what it has recorded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol
from uuid import UUID

from flow.app.shared_resources import Resources
from flow.db.database import Recorded
from flow.domain.limits.budget import Standing
from flow.domain.usage.events import UsageEvent
from flow.domain.usage.posthog_properties import Content
from flow.ledger.recorder import Recorder
from flow.telemetry.usage import count_usage
from flow.vendors.posthog import capture_llm_generation


class RunningCalls(Protocol):
    """The calls of this process: see `flow.bot.calls.registry`."""

    def update(self, thread_id: UUID, *, end_requested: bool, standing: Standing) -> None:
        """Pass on what the ledger says of a thread, if its call runs here."""
        ...


class UsagePublisher:
    """Publishes recorded usage to metrics, PostHog and the calls that run in this process.

    ``contents`` holds the prompts and answer of events that are not recorded yet, by event id,
    where the operator wants them captured. An event's content is dropped when it is published.

    Args:
        recorded: told of every batch, with its costs.
    """

    def __init__(
        self,
        resources: Resources,
        calls: RunningCalls,
        recorded: Callable[[Sequence[UsageEvent]], None],
    ) -> None:
        self._recorded = recorded
        self._metrics = resources.metrics
        self._posthog = resources.posthog
        self._calls = calls
        self.contents: dict[UUID, tuple[list[object], str]] = {}

    def __call__(self, events: Sequence[UsageEvent], recorded: Recorded) -> None:
        """Publish one recorded batch."""
        count_usage(self._metrics, events, recorded.new)
        self._recorded(events)
        for event in events:
            capture_llm_generation(self._posthog, event, content=self._content(event))
        for thread_id, account in recorded.threads.items():
            self._calls.update(
                thread_id, end_requested=account.end_requested, standing=account.standing
            )

    def _content(self, event: UsageEvent) -> Content | None:
        content = self.contents.pop(event.id, None)
        if content is None:
            return None
        messages, answer = content
        return Content(messages, [{"role": "assistant", "content": answer}])


@asynccontextmanager
async def open_recorder(resources: Resources, publisher: UsagePublisher) -> AsyncIterator[Recorder]:
    """Run a recorder; leaving the block waits, within bounds, until its events are recorded."""
    recorder = Recorder(
        resources.database,
        resources.settings.data_dir / "spool",
        price=resources.price,
        on_recorded=publisher,
        watch=resources.flushes,
    )
    recorder.start()
    try:
        yield recorder
    finally:
        await recorder.close()
