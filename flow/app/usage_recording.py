"""The recorder of a service, and who hears what it brought to the ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol
from uuid import UUID

from flow.app.resources import Ground
from flow.db.database import Recorded
from flow.domain.limits.budget import Standing
from flow.domain.usage.events import UsageEvent
from flow.domain.usage.posthog_properties import Content
from flow.ledger.recorder import Recorder
from flow.telemetry.usage import count_usage
from flow.vendors.posthog import capture_llm_generation


class Hearing(Protocol):
    """Running calls: see `flow.bot.calls.call_manager.Calls`."""

    def heard(self, thread_id: UUID, *, end_requested: bool, standing: Standing) -> None:
        """What the ledger says of a thread."""
        ...


class Announcer:
    """Tells metrics, analytics and running calls of what has reached the ledger.

    ``contents`` are prompts and answers of events that are still to be recorded, where the
    operator wants them captured; ``calls`` are there as soon as there can be any.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.contents: dict[UUID, tuple[list[object], str]] = {}
        self.calls: Hearing | None = None

    def __call__(self, events: Sequence[UsageEvent], recorded: Recorded) -> None:
        """A batch was recorded."""
        count_usage(self._ground.metrics, events, recorded.new)
        for event in events:
            kept = self.contents.pop(event.id, None)
            said = kept and Content(kept[0], [{"role": "assistant", "content": kept[1]}])
            capture_llm_generation(self._ground.posthog, event, content=said)
        if self.calls is not None:
            for thread_id, account in recorded.threads.items():
                self.calls.heard(
                    thread_id, end_requested=account.end_requested, standing=account.standing
                )


@asynccontextmanager
async def recording(ground: Ground) -> AsyncIterator[tuple[Recorder, Announcer]]:
    """A running recorder; leaving the block brings home what it has."""
    announcer = Announcer(ground)
    recorder = Recorder(
        ground.database,
        ground.settings.data_dir / "spool",
        price=ground.price,
        on_recorded=announcer,
        watch=ground.flushes,
    )
    recorder.start()
    try:
        yield recorder, announcer
    finally:
        await recorder.close()
