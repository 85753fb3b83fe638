"""P6: a key's usage report takes as long whether it has a few threads or very many."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from uuid import UUID, uuid4

import psycopg

from flow.db.database import Database
from flow.db.postgres_transport import PostgresTransport
from tests.bench import world
from tests.bench.measure import Measure, Options, at_most, percentile

ASKED = 200
BATCH = 10_000
# Threads of this month, with three events each, added up by the functions that add up real ones.
_FILL = b"""
with threads as (
  insert into public.workflow_threads
    (id, api_key_id, team_id, product, billable, status, "join", usage_stats, fingerprint,
     created_at, completed_at)
  select gen_random_uuid(), %(key)s, 'team_bench', 'voice_bot', true, 'completed', '{}', '{}', '',
    at, at
  from (
    select date_trunc('month', now()) + random() * (now() - date_trunc('month', now())) as at
    from generate_series(1, %(count)s)
  ) as times
  returning id, created_at
), events as (
  insert into public.usage_events as e
    (id, workflow_thread_id, api_key_id, team_id, product, billable, kind, source, provider, model,
     lines, total_cost_usd, stream, capture, provenance, outcome, price_version, occurred_at)
  select gen_random_uuid(), t.id, %(key)s, 'team_bench', 'voice_bot', true, 'llm', 'bot', 'openai',
    m.model,
    '[{"unit": "input_tokens", "quantity": 900, "cost_usd": 0.0018, "component": "llm_input"},
      {"unit": "output_tokens", "quantity": 40, "cost_usd": 0.00032, "component": "llm_output"}]',
    0.00212, true, true, 'reported', 'ok', 'bench', t.created_at
  from threads t
  cross join (values ('gpt-4.1'), ('gpt-4.1-mini'), ('gpt-4.1-nano')) as m (model)
  returning e.id
)
select array_agg(id) from events
"""
_SUM = b"select flow.add_to_days(flow.usage_parts(%s))"


async def usage(options: Options) -> list[Measure]:
    """Two keys, one with many times the other's threads, asked in turn."""
    few, many = options.pick((2_000, 100_000), (200, 1_000))
    async with world.database() as url:
        database = Database(await PostgresTransport.open(url))
        small, big = [
            (await database.resolve_api_key(f"key_{uuid4().hex}", "team_bench", "bench")).id
            for _ in range(2)
        ]
        with psycopg.connect(url, autocommit=True) as connection:
            # Without this the rows would be checked against their threads one by one.
            connection.execute("set session_replication_role = replica")
            for key, count in ((small, few), (big, many)):
                for at in range(0, count, BATCH):
                    size = min(BATCH, count - at)
                    events = connection.execute(_FILL, {"key": key, "count": size}).fetchone()
                    connection.execute(_SUM, events)
            connection.execute("vacuum analyze")
        took: dict[UUID, list[float]] = {small: [], big: []}
        trips: list[float] = []
        for _ in range(options.pick(ASKED, 20)):
            begun = time.perf_counter()
            await database.ping()
            trips.append(time.perf_counter() - begun)
            for key, times in took.items():
                times.append(await _asked(database, key))
        await database.close()
    p50 = {name: percentile(took[key], 50) * 1000 for name, key in (("few", small), ("many", big))}
    numbers = {f"{name}_p50_ms": round(value, 2) for name, value in p50.items()}
    numbers["empty_trip_p50_ms"] = round(percentile(trips, 50) * 1000, 2)
    what = "a month's usage by day and model"
    return [
        at_most("P6", f"{what}, {many:,} threads, p50", p50["many"], 3.0, "ms", **numbers),
        at_most("P6", f"{what}, {many:,} / {few:,} threads", p50["many"] / p50["few"], 1.5, "x"),
    ]


async def _asked(database: Database, key: UUID) -> float:
    today = datetime.now(UTC).date()
    begun = time.perf_counter()
    await database.get_usage_stats_by_api_key_id(
        key, from_=today.replace(day=1), to=today, group_by=("day", "model")
    )
    return time.perf_counter() - begun
