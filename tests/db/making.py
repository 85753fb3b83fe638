"""Keys, threads and usage events for the tests, and what an account of events must be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from typing import Any
from uuid import UUID, uuid4

from flow.db.database import Database, Joined, Recorded
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.thread import Status, Thread
from flow.domain.limits.api_key import ApiKey
from flow.domain.limits.quota import Admission, Terms
from flow.domain.usage.events import (
    Cost,
    Kind,
    Outcome,
    Owner,
    Provenance,
    Quantities,
    RequestIds,
    UsageEvent,
)
from tests import events
from tests.events import an_owner

IDS = RequestIds("req_1", "the caller's", "a session", "somebody")
JOIN = JoinRequest.from_json(
    {"product": "voice_bot", "metadata": {"order": 7}, "bot": {"llm": {"temperature": 0.7}}}
)


async def a_key(database: Database, team_id: str = "team_1") -> ApiKey:
    """A key seen for the first time."""
    return await database.resolve_api_key(f"key_{uuid4().hex}", team_id, "A key")


async def a_thread(
    database: Database,
    key: ApiKey,
    *,
    billable: bool = True,
    product: str = "voice_bot",
    idempotency_key: str | None = None,
    admission: Admission | None = None,
) -> Thread:
    """A thread just created."""
    joined = await database.join_thread(
        key,
        uuid4(),
        JOIN.model_copy(update={"product": product}),
        billable=billable,
        idempotency_key=idempotency_key,
        fingerprint="same",
        admission=admission,
    )
    return joined.thread


async def a_join(
    database: Database,
    key: ApiKey,
    reserve_usd: str = "0",
    *,
    reserve_secs: int = 0,
    waiting_secs: int = 360,
    terms: Terms | None = None,
    override: bool = False,
    product: str = "voice_bot",
    billable: bool = True,
    idempotency_key: str | None = None,
    unpriced: Sequence[str] = (),
    now: datetime | None = None,
) -> Joined:
    """A join that has to be admitted, with what it reserves."""
    return await database.join_thread(
        key,
        uuid4(),
        JOIN.model_copy(update={"product": product}),
        billable=billable,
        idempotency_key=idempotency_key,
        fingerprint="same",
        admission=Admission(
            Decimal(reserve_usd), reserve_secs, waiting_secs, terms or Terms(), override
        ),
        unpriced=unpriced,
        now=now,
    )


async def spend(database: Database, thread: Thread, usd: str, **given: Any) -> Recorded:
    """Record one generation of the thread at this cost, now unless another time is given."""
    known: dict[str, Any] = {
        "cost": Cost(input_tokens=Decimal(usd)),
        "occurred_at": datetime.now(UTC),
    }
    recorded = await database.record_usage([an_event(thread, **(known | given))])
    assert len(recorded.new) == 1, recorded
    return recorded


WAY = (Status.CONNECTING, Status.IN_CALL, Status.ENDED, Status.EXTRACTING)


async def move(database: Database, thread: Thread, status: Status) -> Thread:
    """Bring a thread just created to a state, through all that come before it."""
    if status.is_final and status is not Status.COMPLETED:
        return await database.finish_thread(thread.id, status)
    for step in WAY[: WAY.index(status) + 1] if status in WAY else WAY if status.is_final else ():
        thread = await database.save_workflow_thread_data(thread.id, status=step)
    return await database.finish_thread(thread.id, status) if status.is_final else thread


def an_event(thread: Thread, **given: Any) -> UsageEvent:
    """One priced generation of the thread, with some fields given."""
    return _priced(thread.owner, given)


def a_request(key: ApiKey, **given: Any) -> UsageEvent:
    """One priced generation by a request of the key to the gateway, which has no thread."""
    known = {"source": "gateway", "ids": IDS}
    return _priced(an_owner_of(key), known | given)


def an_owner_of(key: ApiKey, **given: Any) -> Owner:
    """Whom a request of the key to the gateway belongs to."""
    known = {"api_key_id": key.id, "team_id": key.team_id, "product": "gateway"}
    return an_owner(workflow_thread_id=None, **(known | given))


def _priced(owner: Owner, given: dict[str, Any]) -> UsageEvent:
    known: dict[str, Any] = {
        "quantities": Quantities(input_tokens=100, cache_read_tokens=20, output_tokens=30),
        "cost": Cost(input_tokens=Decimal("0.0002"), output_tokens=Decimal("0.00024")),
        "price_version": "2026-11",
        "occurred_at": datetime(2026, 11, 21, 12, tzinfo=UTC),
    }
    return events.an_event(**({"owner": owner} | known | given))


def account_of(thread_id: UUID, events: Iterable[UsageEvent]) -> dict[str, Any]:
    """What ``usage_stats`` must be once exactly these events are in the ledger."""
    with localcontext(prec=200):
        return _account_of(thread_id, list(events))


def _account_of(thread_id: UUID, events: list[UsageEvent]) -> dict[str, Any]:
    llm = [event for event in events if event.kind is Kind.LLM]
    others = {event.kind for event in events} - {Kind.LLM, Kind.CALL} | {Kind.TTS, Kind.STT}
    seconds = [event.quantities["call_seconds"] for event in events if event.kind is Kind.CALL]
    unmetered = [event for event in events if event.provenance is Provenance.UNMETERED]
    return {
        "total_tokens": sum(event.quantities.total_tokens for event in events),
        "total_cost_usd": _usd(events),
        "llm_calls": len(llm),
        "models_used": {
            name: _model_account([event for event in llm if _service(event) == name])
            for name in set(map(_service, llm))
        },
        **{kind.value: _section(kind, [e for e in events if e.kind is kind]) for kind in others},
        "call_seconds": sum(seconds, Decimal(0)),
        "cost_breakdown_usd": _costs_by_component(events),
        "estimated_events": sum(e.provenance is Provenance.ESTIMATED for e in events),
        "unpriced_events": sum(event.cost is None for event in events),
        "unmetered": sorted({f"{event.kind} {_service(event)}" for event in unmetered}),
        "interrupted_generations": sum(e.outcome is Outcome.INTERRUPTED for e in llm),
        "failed_generations": sum(event.outcome is Outcome.ERROR for event in llm),
        "billable_cost_usd": _usd(event for event in events if event.owner.billable),
        "posthog_trace_id": str(thread_id),
    }


ALWAYS = {
    Kind.LLM: (
        "input_tokens",
        "cache_read_tokens",
        "cache_write_tokens",
        "output_tokens",
        "reasoning_tokens",
    ),
    Kind.TTS: ("characters", "audio_seconds"),
    Kind.STT: ("audio_seconds",),
}
COMPONENTS = (
    "llm_input",
    "llm_cache_read",
    "llm_cache_write",
    "llm_output",
    "llm_audio",
    "tts",
    "stt",
    "call",
)


def _service(event: UsageEvent) -> str:
    return f"{event.provider}/{event.model}"


def _usd(events: Iterable[UsageEvent]) -> Decimal:
    return sum((event.cost.total for event in events if event.cost is not None), Decimal(0))


def _model_account(events: list[UsageEvent]) -> dict[str, Any]:
    return {"llm_calls": len(events), **_section(Kind.LLM, events)}


def _section(kind: Kind, events: list[UsageEvent]) -> dict[str, Any]:
    units = {*ALWAYS.get(kind, ()), *(unit for event in events for unit in event.quantities)}
    return {
        **{unit: sum(event.quantities[unit] for event in events) for unit in units},
        "cost_usd": _usd(events),
    }


def _costs_by_component(events: list[UsageEvent]) -> dict[str, Decimal]:
    costs = dict.fromkeys(COMPONENTS, Decimal(0))
    for line in (line for event in events for line in event.to_json()["lines"]):
        component = line["component"]
        costs[component] = costs.get(component, Decimal(0)) + Decimal(line.get("cost_usd", 0))
    return costs


def as_read(account: Any) -> Any:
    """An account with its numbers as floats: all that is left of them after supabase-py."""
    if isinstance(account, dict):
        return {name: as_read(value) for name, value in account.items()}
    return float(account) if isinstance(account, int | float | Decimal) else account
