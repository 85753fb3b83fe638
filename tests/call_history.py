"""Months of calls in a database, for pages and their measurements.

``bulk`` writes very many threads with SQL alone, added up by the functions that add up real ones;
``conversation`` writes one through the calls that a bot makes, with all that a thread can show.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import psycopg

from flow.db.database import Database
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.latency import TurnLatency
from flow.domain.calls.thread import Status, Thread, Turn
from flow.domain.limits.api_key import ApiKey
from flow.domain.pricing.pricer import Pricer
from flow.domain.usage.events import (
    Failure,
    Kind,
    Outcome,
    Owner,
    Provenance,
    Quantities,
    RequestIds,
    UsageEvent,
)

BATCH = 10_000
JOIN = {
    "product": "voice_bot",
    "transport": {"type": "webrtc"},
    "bot": {
        "system_prompt": "You take bookings for a restaurant. Be brief and friendly.",
        "llm": {"provider": "openai", "model": "gpt-4.1"},
        "stt": {"provider": "deepgram", "model": "nova-3"},
        "tts": {"provider": "cartesia", "model": "sonic-3"},
    },
    "metadata": {"line": "Hamburg"},
}

_THREADS = """
with joined as (
  select
    gen_random_uuid() as id,
    now() - interval '1 hour' - (%(days)s * interval '1 day') * power(random(), 1.3) as at,
    (random() * 240 + 15)::integer as secs,
    random() as chance
  from generate_series(1, %(count)s)
)
insert into public.workflow_threads
  (id, api_key_id, team_id, product, billable, status, "join", metadata, usage_stats, fingerprint,
   created_at, connected_at, ended_at, completed_at, end_reason, insights, error)
select
  j.id, %(key)s, %(team)s, case when j.chance < 0.9 then 'voice_bot' else 'playground' end, true,
  case when j.chance < 0.96 then 'completed' when j.chance < 0.98 then 'cancelled'
    else 'failed' end,
  %(join)s, jsonb_build_object('line', (array['Hamburg', 'Berlin', 'Wien'])[1 + j.secs %% 3]),
  flow.zero_usage_stats(j.id), '', j.at,
  case when j.chance < 0.96 or j.chance >= 0.98 then j.at + interval '1 second' end,
  case when j.chance < 0.96 or j.chance >= 0.98 then j.at + (j.secs + 1) * interval '1 second' end,
  j.at + (j.secs + 4) * interval '1 second',
  case when j.chance < 0.96 then 'caller_hung_up' when j.chance < 0.98 then 'cancelled'
    else 'vendor_failure' end,
  '{"summary": "A table for four on Friday at eight."}',
  case when j.chance >= 0.98
    then '{"code": "vendor_failure", "message": "the voice did not answer in time"}'::jsonb end
from joined j
returning id
"""
_EVENTS = """
with used as (
  select t.id, t.product, t.billable, t.created_at, l.kind, l.provider, l.model, l.lines,
    (select sum((line ->> 'cost_usd')::numeric) from jsonb_array_elements(l.lines) line) as cost
  from (
    select *, extract(epoch from ended_at - connected_at)::integer as secs
    from public.workflow_threads where id = any(%(threads)s) and ended_at is not null
  ) t
  cross join lateral (
    values
      ('llm', 'openai', case when t.secs %% 4 = 0 then 'gpt-4.1-mini' else 'gpt-4.1' end,
        jsonb_build_array(
          jsonb_build_object('unit', 'input_tokens', 'quantity', t.secs * 20,
            'cost_usd', t.secs * 0.00004, 'component', 'llm_input'),
          jsonb_build_object('unit', 'cache_read_tokens', 'quantity', t.secs * 30,
            'cost_usd', t.secs * 0.000015, 'component', 'llm_cache_read'),
          jsonb_build_object('unit', 'output_tokens', 'quantity', t.secs * 2,
            'cost_usd', t.secs * 0.000016, 'component', 'llm_output'))),
      ('stt', 'deepgram', 'nova-3', jsonb_build_array(
        jsonb_build_object('unit', 'audio_seconds', 'quantity', t.secs,
          'cost_usd', t.secs * 0.0000717, 'component', 'stt'))),
      ('tts', 'cartesia', 'sonic-3', jsonb_build_array(
        jsonb_build_object('unit', 'characters', 'quantity', t.secs * 7,
          'cost_usd', t.secs * 0.000245, 'component', 'tts'))),
      ('call', 'flow', '', jsonb_build_array(
        jsonb_build_object('unit', 'call_seconds', 'quantity', t.secs,
          'cost_usd', 0, 'component', 'call')))
  ) as l (kind, provider, model, lines)
), inserted as (
  insert into public.usage_events as e
    (id, workflow_thread_id, api_key_id, team_id, product, billable, kind, source, provider, model,
     lines, total_cost_usd, stream, capture, provenance, outcome, price_version, occurred_at)
  select gen_random_uuid(), u.id, %(key)s, %(team)s, u.product, u.billable, u.kind, 'bot',
    u.provider, u.model, u.lines, u.cost, true, true, 'reported', 'ok', 'seed', u.created_at
  from used u
  returning e.id
), request as (
  insert into public.usage_events as e
    (id, api_key_id, team_id, product, billable, kind, source, provider, model, lines,
     total_cost_usd, stream, capture, provenance, outcome, price_version, occurred_at, request_id,
     latency_secs, time_to_first_token_secs)
  select gen_random_uuid(), %(key)s, %(team)s, 'gateway', true, 'llm', 'gateway', 'anthropic',
    'claude-sonnet-4-5',
    '[{"unit": "input_tokens", "quantity": 1200, "cost_usd": 0.0036, "component": "llm_input"},
      {"unit": "output_tokens", "quantity": 300, "cost_usd": 0.0045, "component": "llm_output"}]',
    0.0081, true, true, 'reported', 'ok', 'seed', t.created_at, replace(t.id::text, '-', ''),
    3.2, 0.61
  from public.workflow_threads t
  where t.id = any(%(threads)s) and get_byte(uuid_send(t.id), 0) < 26
  returning e.id
)
select array_agg(id) from (select id from inserted union all select id from request) e
"""
_SUMS = """
select flow.add_to_threads(p.parts), flow.add_to_days(p.parts), flow.add_to_months(p.parts)
from (select flow.usage_parts(%(events)s) as parts) p
"""


def bulk(url: str, key: ApiKey, threads: int, *, days: int = 60) -> None:
    """``threads`` calls of a key in the last ``days``, most of them lately, and one request to
    the gateway for every ten. Connects as a superuser, as rows of any age and state need it."""
    with psycopg.connect(url, autocommit=True) as sql:
        sql.execute("set session_replication_role = replica")
        join = JoinRequest.from_json(JOIN).to_json()
        values: dict[str, Any] = {"key": key.id, "team": key.team_id, "days": days}
        values["join"] = psycopg.types.json.Jsonb(join)
        for at in range(0, threads, BATCH):
            values["count"] = min(BATCH, threads - at)
            values["threads"] = [id_ for (id_,) in sql.execute(_THREADS, values)]
            (values["events"],) = sql.execute(_EVENTS, values).fetchone() or (None,)
            sql.execute(_SUMS, values)
        sql.execute("vacuum analyze")


@dataclass(frozen=True, slots=True)
class Line:
    """Something said, with the seconds until the next is; a caller cuts off what is
    ``interrupted``."""

    role: str
    text: str
    secs: float
    interrupted: bool = False


CONVERSATION = (
    Line("assistant", "Good evening, this is Trattoria Lucia. How can I help you?", 3.4),
    Line("user", "Hi, I'd like to book a table for this Friday.", 2.6),
    Line("assistant", "With pleasure. For how many people, and at what", 2.2, interrupted=True),
    Line("user", "For four. Around eight if you have something.", 2.9),
    Line("assistant", "Friday at eight for four: yes, we have a table by the window. "
                      "May I have your name?", 4.6),
    Line("user", "Ada Lovelace. And one of us is vegetarian.", 2.8),
    Line("assistant", "Noted, Ms Lovelace: four people, Friday at eight, one vegetarian. "
                      "We look forward to seeing you!", 5.1),
    Line("user", "Great, thank you. Bye!", 1.4),
)  # fmt: skip
INSIGHTS = {
    "status": "extracted",
    "summary": "The caller booked a table for four on Friday at eight; one guest is vegetarian.",
    "booking": {"guests": 4, "day": "Friday", "time": "20:00", "name": "Ada Lovelace"},
    "sentiment": "positive",
    "follow_up_needed": False,
}


async def conversation(
    database: Database,
    url: str,
    key: ApiKey,
    began: datetime,
    *,
    lines: Sequence[Line] = CONVERSATION,
    still_running: bool = False,
    seed: int = 1,
    said: Mapping[str, Any] | None = None,
) -> Thread:
    """A call that began at some time, turn by turn, with the ledger row of each piece of work.

    ``said`` is what its join says beside `JOIN`.
    """
    chance = random.Random(seed)
    joined = await database.join_thread(
        key, uuid4(), JoinRequest.from_json({**JOIN, **(said or {})}), billable=True,
        idempotency_key=None, fingerprint="seeded",
    )  # fmt: skip
    thread = joined.thread
    await database.claim_thread(thread.id, "voice-1/call")
    await database.touch_thread(thread.id, Status.IN_CALL)
    turns, events, seconds = _work(thread.owner, began, lines, chance)
    await database.save_workflow_thread_data(thread.id, turns=turns)
    price = Pricer.read().price
    if not still_running:
        usage = Quantities(input_tokens=612, output_tokens=88)
        events.append(
            UsageEvent(thread.owner, Kind.LLM, "insights", "openai", "gpt-4.1-mini", usage,
                       Provenance.REPORTED, latency_secs=1.8,
                       occurred_at=began + timedelta(seconds=seconds + 3))
        )  # fmt: skip
        events.append(
            UsageEvent(thread.owner, Kind.CALL, "bot", "flow", "", Quantities(
                call_seconds=Decimal(round(seconds))), Provenance.MEASURED,
                occurred_at=began + timedelta(seconds=seconds))
        )  # fmt: skip
        await database.save_workflow_thread_data(
            thread.id, status=Status.ENDED, end_reason="caller_hung_up"
        )
        await database.save_workflow_thread_data(thread.id, status=Status.EXTRACTING)
        await database.save_insights(thread.id, INSIGHTS)
    await database.record_usage([price(event) for event in events])
    if not still_running:
        await database.finish_thread(thread.id, Status.COMPLETED)
    _move_to(url, thread, began, seconds, still_running=still_running)
    return await database.get_workflow_thread_data(thread.id)


def _work(
    owner: Owner, began: datetime, lines: Sequence[Line], chance: random.Random
) -> tuple[list[Turn], list[UsageEvent], float]:
    """What was said, what it used, and how long it took in seconds."""
    at, turns, events = 1.0, [], []
    for seq, line in enumerate(lines):
        latency, outcome = None, Outcome.INTERRUPTED if line.interrupted else Outcome.OK
        if line.role == "user":
            quantities = Quantities(audio_seconds=Decimal(str(line.secs)))
            events.append(_event(owner, began, at + line.secs + 0.18, Kind.STT, "deepgram",
                                 "nova-3", quantities, latency=line.secs + 0.18))  # fmt: skip
        else:
            if seq:
                latency = TurnLatency(
                    0.21, round(chance.uniform(0.08, 0.16), 3), round(chance.uniform(0.26, 0.5), 3),
                    round(chance.uniform(0.05, 0.12), 3), round(chance.uniform(0.09, 0.2), 3), 0.02,
                )  # fmt: skip
                at += latency.total_secs
            quantities = Quantities(input_tokens=180 + 40 * seq, cache_read_tokens=1024 if seq > 3
                                    else 0, output_tokens=len(line.text) // 4)  # fmt: skip
            events.append(
                _event(owner, began, at + 0.3, Kind.LLM, "openai", "gpt-4.1", quantities,
                       latency=0.9, first=0.34, outcome=outcome)
            )  # fmt: skip
            events.append(
                _event(owner, began, at + line.secs * 0.5, Kind.TTS, "cartesia", "sonic-3",
                       Quantities(characters=len(line.text), audio_seconds=Decimal(str(line.secs))),
                       latency=line.secs * 0.5 + 0.1, first=0.14, outcome=outcome)
            )  # fmt: skip
        started = began + timedelta(seconds=at)
        turns.append(Turn(seq, line.role, line.text, started, line.interrupted, latency))
        at += line.secs + (0.1 if line.role == "user" else 0.4)
    return turns, events, at


def _event(
    owner: Owner,
    began: datetime,
    at: float,
    kind: Kind,
    provider: str,
    model: str,
    quantities: Quantities,
    *,
    latency: float,
    first: float | None = None,
    outcome: Outcome = Outcome.OK,
) -> UsageEvent:
    estimated = outcome is Outcome.INTERRUPTED and kind is Kind.LLM
    return UsageEvent(
        owner, kind, "bot", provider, model, quantities,
        Provenance.ESTIMATED if estimated else Provenance.REPORTED, outcome,
        requested_model=model, occurred_at=began + timedelta(seconds=at),
        latency_secs=round(latency, 3), time_to_first_token_secs=first, stream=kind is not Kind.STT,
    )  # fmt: skip


def _move_to(
    url: str, thread: Thread, began: datetime, seconds: float, *, still_running: bool
) -> None:
    """Have a thread that was just made lie at its time, and not be taken for a lost one."""
    ended = None if still_running else began + timedelta(seconds=seconds)
    with psycopg.connect(url, autocommit=True) as sql:
        sql.execute("set session_replication_role = replica")
        sql.execute(
            "update public.workflow_threads set created_at = %s, connected_at = %s, ended_at = %s,"
            " completed_at = %s, heartbeat_at = now() + interval '1 day',"
            " lease_until = now() + interval '1 day' where id = %s",
            [
                began,
                began + timedelta(seconds=1),
                ended,
                ended and ended + timedelta(seconds=3.6),
                thread.id,
            ],
        )


async def requests(database: Database, key: ApiKey, count: int) -> None:
    """The key's requests to the gateway in the last hours: some failed, some have no price."""
    price = Pricer.read().price
    now, chance = datetime.now(UTC), random.Random(7)
    events = []
    for n in range(count):
        failed, unknown = n % 9 == 4, n % 7 == 3
        events.append(
            price(
                UsageEvent(
                    Owner(None, key.id, key.team_id, "gateway", True), Kind.LLM, "gateway",
                    "openai", "gpt-9-preview" if unknown else "gpt-4.1",
                    Quantities(input_tokens=chance.randint(80, 9000),
                               output_tokens=chance.randint(10, 900)),
                    Provenance.ESTIMATED if failed else Provenance.REPORTED,
                    Outcome.ERROR if failed else Outcome.OK,
                    failure=Failure("RateLimitError", "Rate limit reached", 429)
                    if failed else None,
                    occurred_at=now - timedelta(minutes=7 * n + 1), stream=True,
                    latency_secs=round(chance.uniform(0.6, 9.0), 3),
                    time_to_first_token_secs=round(chance.uniform(0.2, 0.9), 3),
                    ids=RequestIds(uuid4().hex),
                )
            )
        )  # fmt: skip
    await database.record_usage(events)
