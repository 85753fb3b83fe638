"""Conversion between the JSON of the SQL functions and domain objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from flow.domain.agents.agent import Agent
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.latency import TurnLatency
from flow.domain.calls.thread import Pulse, Status, Thread, Turn
from flow.domain.calls.tool_call import ToolCall
from flow.domain.limits.api_key import ApiKey
from flow.domain.limits.budget import Budget, Standing, Tier
from flow.domain.limits.key_standing import KeyStanding
from flow.domain.limits.quota import RATES, LimitState, refused
from flow.domain.products.save_mode import SaveMode
from flow.domain.usage.events import Owner, UsageEvent
from flow.errors import Refused


@dataclass(frozen=True, slots=True)
class Joined:
    """The thread of a join; ``replayed`` when an earlier join had made it.

    ``budget`` is the key's, ``None`` where it has none.
    """

    thread: Thread
    replayed: bool
    budget: Budget | None = None


@dataclass(frozen=True, slots=True)
class ThreadAccount:
    """A thread after its usage was recorded: its running account, whether it shall end, and how
    its key stands now."""

    usage_stats: dict[str, Any]
    status: Status
    end_requested: bool
    standing: Standing


@dataclass(frozen=True, slots=True)
class KeyAccount:
    """A key as its operator sees it. ``budget.cap_usd`` is ``None`` without a budget;
    ``override_until`` is set while the budget is lifted. ``rates`` are the key's own limits of
    requests to the gateway, by resource."""

    key: ApiKey
    budget: Budget
    save_mode: SaveMode | None
    override_until: datetime | None
    running_calls: int
    created_at: datetime
    revoked_at: datetime | None
    rates: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of each event sent, by id, and the account of every thread they named.

    ``duplicates`` were in the ledger before. ``rejected`` maps to the reason; such events are
    kept in ``rejected_usage_events``. All three are settled: none needs sending again. ``dated``
    has the time of those that the ledger dates otherwise than they were sent.
    """

    new: frozenset[UUID]
    duplicates: frozenset[UUID]
    rejected: Mapping[UUID, str]
    threads: Mapping[UUID, ThreadAccount]
    dated: Mapping[UUID, datetime] = field(default_factory=dict)


def api_key(row: Mapping[str, Any]) -> ApiKey:
    """The key of a row of ``api_keys``."""
    return ApiKey(
        id=UUID(row["id"]),
        unkey_key_id=row["unkey_key_id"],
        team_id=row["team_id"],
        name=row["name"],
    )


def thread(row: Mapping[str, Any]) -> Thread:
    """The thread of what ``workflow_thread_json`` built."""
    return Thread(
        id=UUID(row["id"]),
        api_key_id=UUID(row["api_key_id"]),
        team_id=row["team_id"],
        product=row["product"],
        billable=row["billable"],
        status=Status(row["status"]),
        join=JoinRequest.from_json(floats(row["join"])),
        transcript=tuple(turn_of(one) for one in row["transcript"]),
        tool_calls=tuple(ToolCall.from_json(floats(call)) for call in row["tool_calls"]),
        insights=floats(row["insights"]),
        usage_stats=row["usage_stats"],
        metadata=floats(row["metadata"]),
        error=floats(row["error"]),
        end_reason=row["end_reason"],
        end_requested=row["end_requested_at"] is not None,
        created_at=utc(row["created_at"]),
        connected_at=maybe_utc(row["connected_at"]),
        ended_at=maybe_utc(row["ended_at"]),
        completed_at=maybe_utc(row["completed_at"]),
    )


def agent(row: Mapping[str, Any]) -> Agent:
    """The version of an agent that ``flow.agent_json`` built."""
    definition = floats(row["definition"])
    return Agent(
        id=UUID(row["id"]),
        team_id=row["team_id"],
        name=definition["name"],
        version=row["version"],
        definition=definition,
        created_at=utc(row["created_at"]),
        updated_at=utc(row["updated_at"]),
        archived_at=maybe_utc(row["archived_at"]),
    )


def pulse(row: Mapping[str, Any]) -> Pulse:
    """What `touch_thread` gives."""
    return Pulse(Status(row["status"]), row["end_requested"])


def recorded(row: Mapping[str, Any]) -> Recorded:
    """The outcome that ``record_usage`` returned."""
    return Recorded(
        new=frozenset(map(UUID, row["new"])),
        duplicates=frozenset(map(UUID, row["duplicates"])),
        rejected={UUID(refused["id"]): refused["reason"] for refused in row["rejected"]},
        threads={
            UUID(thread_id): ThreadAccount(
                usage_stats=account["usage_stats"],
                status=Status(account["status"]),
                end_requested=account["end_requested"],
                standing=standing(account["standing"]),
            )
            for thread_id, account in row["threads"].items()
        },
        dated={UUID(event_id): utc(at) for event_id, at in row["dated"].items()},
    )


def joined(row: Mapping[str, Any]) -> Joined:
    """The thread that an earlier join made."""
    known = row["budget"]
    return Joined(thread(row["thread"]), True, known and budget(known))


def newly_joined(
    row: Mapping[str, Any], thread_id: UUID, owner: Owner, join: JoinRequest
) -> Joined:
    """The thread that ``join_thread`` made: what was asked for, and nothing has happened yet."""
    known = row["budget"]
    made = Thread(
        id=thread_id,
        api_key_id=owner.api_key_id,
        team_id=owner.team_id,
        product=owner.product,
        billable=owner.billable,
        status=Status.CREATED,
        join=join,
        transcript=(),
        insights=None,
        usage_stats=row["usage_stats"],
        metadata=join.metadata,
        error=None,
        end_reason=None,
        end_requested=False,
        created_at=utc(row["created_at"]),
        connected_at=None,
        ended_at=None,
        completed_at=None,
    )
    return Joined(made, False, known and budget(known))


def standing(row: Mapping[str, Any]) -> Standing:
    """How a thread's key stands, as ``get_thread_standing`` says it."""
    tier, mode = row["budget_tier"], row["save_mode"]
    return Standing(tier and Tier(tier), mode and SaveMode(mode))


def key_standing(row: Mapping[str, Any]) -> KeyStanding:
    """How a key stands, as ``get_limits`` says it."""
    known, mode = row["budget"], row["save_mode"]
    return KeyStanding(
        known and budget(known),
        mode and SaveMode(mode),
        tuple(map(limit_state, row["limits"])),
    )


def budget(row: Mapping[str, Any]) -> Budget:
    """The budget that ``flow.budget_json`` built."""
    return Budget(
        tier=row["tier"] and Tier(row["tier"]),
        cap_usd=_maybe_decimal(row["cap_usd"]),
        spent_usd=Decimal(row["spent_usd"]),
        reserved_usd=Decimal(row["reserved_usd"]),
        remaining_usd=_maybe_decimal(row["remaining_usd"]),
        resets_at=utc(row["resets_at"]),
        scope=row["scope"],
    )


def limit_state(row: Mapping[str, Any]) -> LimitState:
    """The limit that ``flow.limit_json`` built."""
    return LimitState(
        resource=row["resource"],
        scope=row["scope"],
        product=row["product"],
        used=Decimal(row["used"]),
        reserved=Decimal(row["reserved"]),
        limit=_maybe_decimal(row["limit"]),
        resets_at=maybe_utc(row["resets_at"]),
    )


def refusal(row: Mapping[str, Any]) -> Refused:
    """The refusal that ``flow.refusal_json`` built, to be raised."""
    return refused(row["code"], limit_state(row), int(row["retry_after_secs"]))


def key_account(row: Mapping[str, Any]) -> KeyAccount:
    """The key that ``flow.key_account`` built."""
    mode = row["save_mode"]
    return KeyAccount(
        key=api_key(row),
        budget=budget(row["budget"]),
        save_mode=mode and SaveMode(mode),
        override_until=maybe_utc(row["override_until"]),
        running_calls=row["running_calls"],
        created_at=utc(row["created_at"]),
        revoked_at=maybe_utc(row["revoked_at"]),
        rates={name: row[name] for name in RATES if row[name] is not None},
    )


def event_json(event: UsageEvent) -> dict[str, Any]:
    """The event as ``record_usage`` takes it: without its properties, which are no part of it."""
    data = event.to_json()
    data.pop("properties", None)
    return data


def turn_of(row: Mapping[str, Any]) -> Turn:
    """One turn of a transcript."""
    return Turn(
        seq=row["seq"],
        role=row["role"],
        content=row["content"],
        started_at=utc(row["started_at"]),
        interrupted=row["interrupted"],
        latency=row["latency"] and TurnLatency.from_json(row["latency"]),
    )


def floats(value: Any) -> Any:
    """A customer's JSON with ordinary numbers; only an account needs exact ones."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {name: floats(item) for name, item in value.items()}
    if isinstance(value, list):
        return [floats(item) for item in value]
    return value


def utc(text: str) -> datetime:
    """The time in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC)


def _maybe_decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def maybe_utc(text: str | None) -> datetime | None:
    """The time in UTC, where there is one."""
    return None if text is None else utc(text)
