"""The database as typed calls.

Every rule that must be atomic is a SQL function in ``supabase/migrations``. A `Database` calls
those functions over a `Transport` and turns their JSON into domain objects at once, so no module
above this one sees a row, a cursor or an SQL error.

Any call may raise `DatabaseUnavailable`; each documents its other errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

from flow.db import rows
from flow.db.agents import Agents
from flow.db.call_recordings import CallRecordings
from flow.db.during_calls import DuringCalls
from flow.db.gateway_leases import GatewayLeases
from flow.db.operator import Operating
from flow.db.pages import Page, check_limit, page, place
from flow.db.postgres_json import text_array
from flow.db.room_calls import RoomCalls
from flow.db.rows import Joined, KeyAccount, Recorded, ThreadAccount
from flow.db.telephony import Telephony
from flow.db.transport import TypedCalls
from flow.db.webhooks import Webhooks
from flow.domain.calls.host import HostReport
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.thread import Pulse, Status, Thread, ThreadTurn, Turn
from flow.domain.calls.tool_call import ThreadToolCall
from flow.domain.limits.api_key import ApiKey
from flow.domain.limits.budget import Budget, Standing
from flow.domain.limits.key_standing import KeyStanding
from flow.domain.limits.quota import Admission, LimitState, Terms
from flow.domain.usage.events import Owner, UsageEvent

__all__ = ["Database", "Joined", "KeyAccount", "Page", "Recorded", "ThreadAccount"]


class Database(TypedCalls):
    """The calls Flow makes; each is one round trip and one transaction."""

    @property
    def webhooks(self) -> Webhooks:
        """The calls about webhooks."""
        return Webhooks(self._transport)

    @property
    def operating(self) -> Operating:
        """What an operator sets and sees."""
        return Operating(self._transport)

    @property
    def gateway_leases(self) -> GatewayLeases:
        """The calls about what the gateway's processes hold of limits."""
        return GatewayLeases(self._transport)

    @property
    def room_calls(self) -> RoomCalls:
        """The calls about calls in rooms."""
        return RoomCalls(self._transport)

    @property
    def during_calls(self) -> DuringCalls:
        """The calls about what happens while a call runs."""
        return DuringCalls(self._transport)

    @property
    def telephony(self) -> Telephony:
        """The calls about telephone numbers and the legs of telephone calls."""
        return Telephony(self._transport)

    @property
    def recordings(self) -> CallRecordings:
        """The calls about recordings."""
        return CallRecordings(self._transport)

    @property
    def agents(self) -> Agents:
        """The calls about stored agents."""
        return Agents(self._transport)

    async def ping(self) -> None:
        """Return when the database answers and Flow's functions are there.

        Raises:
            DatabaseUnavailable: it does not answer, or the migrations have not been applied.
        """
        await self._transport.call("flow_ping", {})

    async def close(self) -> None:
        """Give back every connection."""
        await self._transport.close()

    async def resolve_api_key(self, unkey_key_id: str, team_id: str, name: str | None) -> ApiKey:
        """The row of a key that Unkey verified, made at first sight.

        ``team_id`` and ``name`` are stored again when Unkey's have changed.
        """
        row = await self._call(
            "resolve_api_key", p_unkey_key_id=unkey_key_id, p_team_id=team_id, p_name=name
        )
        return rows.api_key(row)

    async def join_thread(
        self,
        key: ApiKey,
        thread_id: UUID,
        join: JoinRequest,
        *,
        billable: bool,
        idempotency_key: str | None,
        fingerprint: str,
        admission: Admission | None = None,
        unpriced: Sequence[str] = (),
        now: datetime | None = None,
    ) -> Joined:
        """Create a thread of ``key`` in state ``created``, or find the one created before.

        ``join`` is the accepted request and names the product. ``fingerprint`` identifies
        its content: the same idempotency key with the same fingerprint gives the first thread,
        whatever the limits have become. Otherwise every limit is checked, and what ``admission``
        asks for is reserved, under a lock that racing joins share.

        ``unpriced`` names the models of the join that no price is known for, as
        ``provider/model``: a key with a budget that counts may not use them, since what they
        cost would not be counted.

        Raises:
            UnpricedModel: such a model, on a key with a budget; nothing was created.
            Refused: ``budget_exceeded``, ``quota_exceeded`` or ``concurrency_exceeded``; nothing
                was created. ``disabled_api_key``: the key was revoked.
            Conflict: code ``idempotency_conflict`` when the fingerprint differs.
            NotFound: the key is gone.
        """
        admission = admission or Admission()
        row = await self._call(
            "join_thread",
            p_api_key_id=str(key.id),
            p_thread_id=str(thread_id),
            p_join=join.to_json(),
            p_billable=billable,
            p_idempotency_key=idempotency_key,
            p_fingerprint=fingerprint,
            p_reserve_usd=str(admission.reserve_usd),
            p_reserve_secs=admission.reserve_secs,
            p_waiting_secs=admission.waiting_secs,
            p_terms=admission.terms.to_json(),
            p_override=admission.override,
            p_now=now and now.isoformat(),
            p_whole=False,
            p_unpriced=text_array(unpriced),
        )
        if (refused := row.get("refused")) is not None:
            raise rows.refusal(refused)
        if row["replayed"]:
            return rows.joined(row)
        owner = Owner(thread_id, key.id, row["team_id"], join.product, billable)
        return rows.newly_joined(row, thread_id, owner, join)

    async def find_join(
        self, key: ApiKey, idempotency_key: str | None, fingerprint: str
    ) -> Joined | None:
        """The thread that an earlier join under this idempotency key made, if there is one.

        Raises:
            Conflict: code ``idempotency_conflict`` when the fingerprint differs.
        """
        if idempotency_key is None:
            return None
        row = await self._call(
            "find_join",
            p_api_key_id=str(key.id),
            p_idempotency_key=idempotency_key,
            p_fingerprint=fingerprint,
        )
        return row and rows.joined(row)

    async def get_budget(self, api_key_id: UUID, now: datetime | None = None) -> Budget | None:
        """The key's budget this month (UTC); ``None`` where it has none."""
        row = await self._call(
            "get_budget", p_api_key_id=str(api_key_id), p_now=now and now.isoformat()
        )
        return row and rows.budget(row)

    async def get_limits(
        self, api_key_id: UUID, terms: Terms, now: datetime | None = None
    ) -> tuple[tuple[LimitState, ...], Budget | None]:
        """Every limit of the key and its team, and the key's budget if it has one.

        Raises:
            NotFound: the key is gone.
        """
        standing = await self.get_key_standing(api_key_id, terms, now)
        return standing.limits, standing.budget

    async def get_key_standing(
        self, api_key_id: UUID, terms: Terms, now: datetime | None = None
    ) -> KeyStanding:
        """How a key stands that makes requests without a thread, and what its limits are.

        Raises:
            NotFound: the key is gone.
        """
        row = await self._call(
            "get_limits",
            p_api_key_id=str(api_key_id),
            p_terms=terms.to_json(),
            p_now=now and now.isoformat(),
        )
        return rows.key_standing(row)

    async def get_thread_standing(self, thread_id: UUID) -> Standing:
        """How the key of a thread stands now.

        Raises:
            NotFound: there is no such thread.
        """
        return rows.standing(await self._call("get_thread_standing", p_thread_id=str(thread_id)))

    async def record_usage(
        self, events: Sequence[UsageEvent], now: datetime | None = None
    ) -> Recorded:
        """Put the events in the ledger, each once however often it is sent.

        One transaction: ledger, daily rollup, the month of key and team, and each thread's
        ``usage_stats`` move together. An event without a thread moves no thread's. An event the
        ledger cannot take is kept aside with the reason and never holds up the rest. The
        ledger dates each by the database's clock: ``now`` is what the clock that they were dated by
        says, and by as much as it differs from the database's they are dated otherwise.
        """
        if not events:
            return Recorded(frozenset(), frozenset(), {}, {})
        row = await self._call(
            "record_usage",
            p_events=[rows.event_json(event) for event in events],
            p_sent_at=(now or datetime.now(UTC)).isoformat(),
        )
        return rows.recorded(row)

    async def claim_thread(self, thread_id: UUID, claim: str) -> Thread:
        """Make a ``created`` thread's call ours: it is then ``connecting``, for nobody else.

        ``claim`` names the claimant; claiming again under the same name changes nothing.

        Raises:
            Conflict: code ``already_connected``: another has it, or it is over.
            NotFound: there is no such thread.
        """
        row = await self._call("claim_thread", p_thread_id=str(thread_id), p_claim=claim)
        return rows.thread(row)

    async def save_workflow_thread_data(
        self,
        thread_id: UUID,
        *,
        status: Status | None = None,
        turns: Sequence[Turn] = (),
        insights: dict[str, Any] | None = None,
        end_reason: str | None = None,
        error: dict[str, Any] | None = None,
        end_requested: bool = False,
    ) -> Thread:
        """Store what is new about a thread and return all of it; ``None`` leaves a field alone.

        Turns replace those of the same ``seq``. Every call is also a sign of life. Moving to the
        state the thread is in changes nothing.

        Raises:
            IllegalTransition: the move is not in the table of legal moves; names both states.
            NotFound: there is no such thread.
        """
        row = await self._call(
            "save_workflow_thread_data",
            p_thread_id=str(thread_id),
            p_status=status and status.value,
            p_turns=[turn.to_json() for turn in turns],
            p_insights=insights,
            p_end_reason=end_reason,
            p_error=error,
            p_end_requested=end_requested,
        )
        return rows.thread(row)

    async def end_thread(self, thread_id: UUID, api_key_id: UUID | None = None) -> Thread:
        """End a call, wherever it runs; with ``api_key_id``, only if it is that key's.

        A thread that nobody has connected to is cancelled at once. Whoever runs a call is asked to
        end it (``end_requested``), with its next sign of life. Nothing changes where the call is
        over. Gives the thread as it is then.

        Raises:
            NotFound: there is no such thread, or it is another key's.
        """
        row = await self._call(
            "end_thread",
            p_thread_id=str(thread_id),
            p_api_key_id=api_key_id and str(api_key_id),
        )
        return rows.thread(row)

    async def touch_thread(self, thread_id: UUID, status: Status | None = None) -> Pulse:
        """Give a sign of life of a running call, and move it where ``status`` is given.

        Raises:
            IllegalTransition, NotFound: as for `save_workflow_thread_data`.
        """
        row = await self._call(
            "touch_thread", p_thread_id=str(thread_id), p_status=status and status.value
        )
        return rows.pulse(row)

    async def save_turns(self, turns: Sequence[ThreadTurn]) -> frozenset[UUID]:
        """Store turns of any threads, each once; returns the threads that do not exist.

        A thread may be over by then. Unlike `save_workflow_thread_data` this is no sign of life.
        """
        unknown = await self._call("save_turns", p_turns=[turn.to_json() for turn in turns])
        return frozenset(map(UUID, unknown))

    async def save_tool_calls(self, calls: Sequence[ThreadToolCall]) -> frozenset[UUID]:
        """Store uses of tools of any threads; returns the threads that do not exist.

        The first outcome of a use stands, but for one that says nothing.
        """
        unknown = await self._call("save_tool_calls", p_calls=[call.to_json() for call in calls])
        return frozenset(map(UUID, unknown))

    async def get_workflow_thread_data(
        self, thread_id: UUID, api_key_id: UUID | None = None
    ) -> Thread:
        """The thread with its transcript; with ``api_key_id``, only if it is that key's.

        Raises:
            NotFound: there is no such thread, or it is another key's.
        """
        row = await self._call(
            "get_workflow_thread_data",
            p_thread_id=str(thread_id),
            p_api_key_id=api_key_id and str(api_key_id),
        )
        return rows.thread(row)

    async def get_thread_usage(
        self, thread_id: UUID, api_key_id: UUID | None = None
    ) -> list[dict[str, Any]]:
        """The thread's ledger rows, oldest first.

        Each is shaped like `UsageEvent.to_json`, with ``recorded_at`` added.

        Raises:
            NotFound: there is no such thread, or it is another key's.
        """
        found: list[dict[str, Any]] = await self._call(
            "get_thread_usage",
            p_thread_id=str(thread_id),
            p_api_key_id=api_key_id and str(api_key_id),
        )
        return found

    async def list_workflow_threads(
        self,
        api_key_id: UUID,
        *,
        limit: int = 50,
        cursor: str | None = None,
        status: Status | None = None,
        product: str | None = None,
        agent_id: UUID | None = None,
        running: bool = False,
        from_: date | None = None,
        to: date | None = None,
    ) -> Page[Thread]:
        """The key's threads, newest first, each with an empty transcript.

        Args:
            running: only those with a call under way, or being connected.
            from_, to: only those joined in these UTC days, both inclusive.

        Raises:
            InvalidInput: the cursor is not one this method gave, or the limit not 1 to 200.
        """
        check_limit(limit)
        before_at, before_id = place(cursor)
        found = await self._call(
            "list_workflow_threads",
            p_api_key_id=str(api_key_id),
            p_limit=limit + 1,
            p_before_created_at=before_at,
            p_before_id=before_id,
            p_status=status and status.value,
            p_product=product,
            p_agent_id=agent_id and str(agent_id),
            p_running=running,
            p_from=from_ and from_.isoformat(),
            p_to=to and to.isoformat(),
        )
        return page(found, limit, rows.thread)

    async def list_requests(
        self,
        api_key_id: UUID,
        *,
        limit: int = 50,
        cursor: str | None = None,
        product: str | None = None,
    ) -> Page[dict[str, Any]]:
        """The ledger rows of the key's requests to the gateway, newest first.

        Each is shaped like `UsageEvent.to_json`, with ``recorded_at`` added.

        Raises:
            InvalidInput: the cursor is not one this method gave, or the limit not 1 to 200.
        """
        check_limit(limit)
        before_at, before_id = place(cursor)
        found = await self._call(
            "list_requests",
            p_api_key_id=str(api_key_id),
            p_limit=limit + 1,
            p_before_occurred_at=before_at,
            p_before_id=before_id,
            p_product=product,
        )
        return page(found, limit, dict, ("occurred_at", "id"))

    async def finish_thread(
        self, thread_id: UUID, status: Status, *, error: dict[str, Any] | None = None
    ) -> Thread:
        """Move the thread to a final state and settle its account from the ledger.

        Finishing again in the same state changes nothing. ``usage_stats`` of the result is the
        sum of the ledger rows; usage that arrives later is still added.

        Raises:
            IllegalTransition: the thread cannot move there; names both states.
            InvalidInput: ``status`` is not final.
            NotFound: there is no such thread.
        """
        row = await self._call(
            "finish_thread", p_thread_id=str(thread_id), p_status=status.value, p_error=error
        )
        return rows.thread(row)

    async def expire_threads(self, created_before: datetime) -> list[UUID]:
        """Expire the threads nobody connected to; those moved now, oldest first."""
        found = await self._call("expire_threads", p_created_before=created_before.isoformat())
        return [UUID(thread_id) for thread_id in found]

    async def take_over_lost_threads(self, lost_secs: int, missing_secs: int) -> list[UUID]:
        """End the threads whose lease lapsed ``lost_secs`` ago; those that are to be finished.

        A call whose own seconds are not in the ledger is left alone until its lease lapsed
        ``missing_secs`` ago. Each is given once within the time that finishing may take.
        """
        found = await self._call(
            "take_over_lost_threads", p_lost_secs=lost_secs, p_missing_secs=missing_secs
        )
        return [UUID(thread_id) for thread_id in found]

    async def take_over_threads_of(self, executor: str) -> list[UUID]:
        """The same for every unfinished thread that a process, which is gone, had claimed."""
        found = await self._call("take_over_threads_of", p_executor=executor)
        return [UUID(thread_id) for thread_id in found]

    async def save_insights(self, thread_id: UUID, insights: dict[str, Any]) -> Thread:
        """Store what was extracted, unless something is stored already; the thread as it is then.

        Raises:
            NotFound: there is no such thread.
        """
        row = await self._call("save_insights", p_thread_id=str(thread_id), p_insights=insights)
        return rows.thread(row)

    async def claim_executor(
        self, executor: str, home: str, instance: UUID, dead_secs: int
    ) -> datetime | None:
        """Take a name for a run of a process that holds the lock of the data folder ``home``.

        ``None``: it is taken. Otherwise a process of another folder has it, which was heard of
        then, less than ``dead_secs`` ago.
        """
        answer = await self._call(
            "claim_executor",
            p_id=executor,
            p_home=home,
            p_instance=str(instance),
            p_dead_secs=dead_secs,
        )
        return None if answer["claimed"] else datetime.fromisoformat(answer["heard_at"])

    async def release_executor(self, executor: str, instance: UUID) -> bool:
        """Leave the name to whoever wants it; False if another process has it already."""
        return bool(await self._call("release_executor", p_id=executor, p_instance=str(instance)))

    async def beat_executor(
        self,
        executor: str,
        home: str,
        instance: UUID,
        dead_secs: int,
        report: HostReport | None = None,
    ) -> list[str] | None:
        """Say that an executor lives, and how it is; those that said nothing for ``dead_secs``.

        ``None``: another process has the name by now.
        """
        found: list[str] | None = await self._call(
            "beat_executor",
            p_id=executor,
            p_home=home,
            p_instance=str(instance),
            p_dead_secs=dead_secs,
            p_report={} if report is None else asdict(report),
        )
        return found

    async def forget_executor(self, executor: str, dead_secs: int) -> bool:
        """Forget an executor that is still dead; False if it lives."""
        return bool(await self._call("forget_executor", p_id=executor, p_dead_secs=dead_secs))

    async def get_usage_stats_by_api_key_id(
        self, api_key_id: UUID, *, from_: date, to: date, group_by: Sequence[str] = ()
    ) -> list[dict[str, Any]]:
        """The key's usage from the daily rollup, both UTC days inclusive, one row per group.

        ``group_by`` may name ``day``, ``model``, ``provider``, ``product``, ``kind`` and
        ``source``; each row holds those names and the sums: ``events``, ``llm_calls``,
        ``total_tokens``, ``estimated_events``, ``unpriced_events``, ``unmetered_events`` (some of
        the unpriced), ``interrupted_events`` and ``failed_events`` as integers;
        ``total_cost_usd`` and ``billable_cost_usd`` as strings, or ``None`` where nothing had a
        price; and ``lines``, one for each kind and unit used: ``{"kind", "unit", "component",
        "part_of", "quantity", "cost_usd"}`` with numbers as strings, ``cost_usd`` ``None`` where
        nothing was charged by that unit. No usage, no rows.

        Raises:
            InvalidInput: a group has another name, or ``from_`` is after ``to``.
        """
        found: list[dict[str, Any]] = await self._call(
            "get_usage_stats_by_api_key_id",
            p_api_key_id=str(api_key_id),
            p_from=from_.isoformat(),
            p_to=to.isoformat(),
            p_group_by=list(group_by),
        )
        return found
