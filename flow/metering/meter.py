"""The meter of one service: it makes the metered requests and knows what came of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import structlog

from flow.domain.usage.events import (
    CostControl,
    Failure,
    Kind,
    Outcome,
    Owner,
    Provenance,
    Quantities,
    RequestIds,
    UsageEvent,
)
from flow.metering.evidence import NOTHING, Ended, Opening
from flow.metering.request import MeteredRequest, Recording

log = structlog.get_logger(__name__)

OnClosed = Callable[[UsageEvent, Opening, str], None]
"""Told of each finished event, what was asked for and the text of the answer."""


@dataclass(frozen=True, slots=True)
class Service:
    """Which vendor's model a meter counts, and for what. ``capture`` as in `UsageEvent`."""

    kind: Kind
    provider: str
    model: str
    source: str = "bot"
    capture: bool = True


class Meter:
    """Counts one service's work.

    Args:
        control: what is done about the cost at the moment.
        on_closed: told of every finished request.
        known: fields that all its events have, of those of `UsageEvent`.
    """

    def __init__(
        self,
        service: Service,
        owner: Owner,
        recorder: Recording,
        *,
        control: Callable[[], CostControl] = CostControl,
        on_closed: OnClosed | None = None,
        **known: Any,
    ) -> None:
        self.service = service
        self.owner = owner
        self.recorded = 0
        """How many events have come of it."""
        self.failure: Failure | None = None
        """What its last request failed by; ``None`` once one has not."""
        self._recorder = recorder
        self._control = control
        self._listener = on_closed
        self._known = known
        self._given_ids: set[UUID] = set()
        self._live: dict[UUID, MeteredRequest] = {}

    def open(
        self, opening: Opening, *, asked_for: str | None = None, event_id: UUID | None = None
    ) -> MeteredRequest:
        """A request goes out. ``asked_for`` is the model that was meant, where another is asked.

        An ``event_id`` holds for one request: one that is sent again has an id of its own.
        """
        if event_id in self._given_ids:
            event_id = None
        elif event_id is not None:
            self._given_ids.add(event_id)
        model = opening.model or self.service.model
        meant = asked_for or model
        event = self._event(
            kind=opening.kind or self.service.kind,
            model=model,
            requested_model=meant,
            sent_model=model if meant != model else None,
            stream=opening.stream,
            event_id=event_id,
        )
        request = MeteredRequest(self._recorder, event, opening, self._closed)
        self._live[request.id] = request
        return request

    def record(self, quantities: Quantities, provenance: Provenance, **known: Any) -> None:
        """Record work that is known by its amount alone. ``known`` are fields of `UsageEvent`."""
        model = known.pop("model", None) or self.service.model
        self.recorded += 1
        self.failure = None
        self._recorder.record(
            self._event(
                model=model,
                requested_model=model,
                quantities=quantities,
                provenance=provenance,
                **known,
            )
        )

    def close(self) -> None:
        """The call is over: what is still under way was cut off with it."""
        for request in list(self._live.values()):
            request.closed(Ended.ABANDONED)

    def report_unmetered(self) -> None:
        """Put on record that the service worked and nothing metered it."""
        service = self.service
        log.error(
            "unmetered_service",
            **self._whose,
            kind=service.kind.value,
            provider=service.provider,
            model=service.model,
        )
        self.record(NOTHING, Provenance.UNMETERED, note="the service worked and nothing metered it")

    @property
    def _whose(self) -> dict[str, str | None]:
        """The id that log lines name the work by."""
        if self.owner.workflow_thread_id is not None:
            return {"workflow_thread_id": str(self.owner.workflow_thread_id)}
        ids: RequestIds = self._known.get("ids", RequestIds())
        return {"request_id": ids.request_id}

    def _closed(self, event: UsageEvent, opening: Opening, text: str) -> None:
        self.recorded += 1
        self._live.pop(event.id, None)
        if event.outcome is not Outcome.INTERRUPTED:
            self.failure = event.failure
        if event.note is not None and event.outcome is not Outcome.INTERRUPTED:
            log.warning(
                "usage_noted",
                **self._whose,
                provider=event.provider,
                note=event.note,
            )
        if self._listener is not None:
            self._listener(event, opening, text)

    def _event(
        self,
        *,
        kind: Kind | None = None,
        quantities: Quantities = NOTHING,
        provenance: Provenance = Provenance.ESTIMATED,
        event_id: UUID | None = None,
        **known: Any,
    ) -> UsageEvent:
        service = self.service
        return UsageEvent(
            owner=self.owner,
            kind=kind or service.kind,
            source=service.source,
            provider=service.provider,
            quantities=quantities,
            provenance=provenance,
            capture=service.capture,
            control=self._control(),
            id=event_id or uuid4(),
            **{**self._known, **known},
        )
