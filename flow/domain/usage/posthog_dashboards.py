"""The tiles of Flow's dashboards at PostHog: what each shows, as a query in PostHog's own schema.

Each event is one piece of vendor work (`flow.domain.usage.posthog_properties`). PostHog's schema is
in its repository, ``frontend/src/queries/schema.json``: unknown fields are refused there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from flow.domain.usage.posthog_properties import EVENT_NAMES

PERIOD = {"date_from": "-30d"}

KEY_LABEL = (
    "if(distinct_id = properties.api_key_id and person.properties.name is not null,"
    " concat(person.properties.name, ' (', substring(properties.api_key_id, 1, 8), ')'),"
    " properties.api_key_id)"
)
"""What a key is called, in HogQL: by its person's name, unless a caller of the gateway named
somebody else as the person of its request."""

COST_OF_CALLS = """
select
    properties.workflow_thread_id as call,
    min(timestamp) as started,
    round(sum(toFloat(properties.$ai_total_cost_usd)), 6) as cost_usd,
    round(sumIf(toFloat(properties.$ai_total_cost_usd), properties.usage_kind = 'llm'), 6) as llm,
    round(sumIf(toFloat(properties.$ai_total_cost_usd), properties.usage_kind = 'tts'), 6) as tts,
    round(sumIf(toFloat(properties.$ai_total_cost_usd), properties.usage_kind = 'stt'), 6) as stt,
    count() as requests,
    countIf(toString(properties.$ai_is_error) = 'true') as errors,
    countIf(properties.$ai_total_cost_usd is null) as without_cost
from events
where event in (EVENTS) and properties.workflow_thread_id is not null and {filters}
group by call
order by started desc
limit 100
""".strip()

_LLM, _EMBEDDING = "$ai_generation", "$ai_embedding"
_NAMES = {_LLM: "Generations", _EMBEDDING: "Embeddings"}
_COST = "$ai_total_cost_usd"
_USD: dict[str, Any] = {"aggregationAxisPrefix": "$", "decimalPlaces": 4}

Query = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile; ``slug`` tells it from the others of its dashboard for good."""

    slug: str
    name: str
    description: str
    query: Query


def tiles(api_key_id: UUID | None = None) -> tuple[Tile, ...]:
    """The tiles of a key's dashboard, or of the one over all keys."""
    only = [] if api_key_id is None else [_equals("api_key_id", str(api_key_id))]
    shown = [*_costs(only), *_work(only), *_shares(only)]
    by_key = Tile(
        "cost-by-key",
        "Cost by key",
        "USD, by API key.",
        _trends(_of_all("sum", _COST), only, "ActionsBarValue", KEY_LABEL, kind="hogql", **_USD),
    )
    return tuple(shown if api_key_id is not None else [by_key, *shown])


def _costs(only: list[Query]) -> list[Tile]:
    costs = _of_all("sum", _COST)
    return [
        Tile(
            "cost-by-day",
            "Cost by day",
            "USD a day, stacked by kind: llm, tts, stt and embedding.",
            _trends(costs, only, "ActionsBar", "usage_kind", **_USD),
        ),
        Tile(
            "cost-by-model",
            "Cost by model",
            "USD, by the model that served.",
            _trends(costs, only, "ActionsBarValue", "$ai_model", **_USD),
        ),
        Tile(
            "cost-by-product",
            "Cost by product",
            "USD, by Flow's product.",
            _trends(costs, only, "ActionsBarValue", "ai_product", **_USD),
        ),
        Tile(
            "billable",
            "Billable cost",
            "USD a day: billable to the customer (true) or not (false).",
            _trends(costs, only, "ActionsBar", "$ai_billable", **_USD),
        ),
        Tile(
            "cost-of-calls",
            "Cost of calls",
            "USD of each of the last 100 calls, and how many of its requests have no cost yet"
            " for want of a price.",
            _table(COST_OF_CALLS.replace("EVENTS", _event_list()), only),
        ),
    ]


def _work(only: list[Query]) -> list[Tile]:
    answered = [*only, _equals("$ai_is_error", "false")]
    failed = [*only, _equals("$ai_is_error", "true")]
    return [
        Tile(
            "by-status",
            "Requests by HTTP status",
            "Requests a day. What went over a WebSocket has no status.",
            _trends(_of_all("total"), only, "ActionsBar", "$ai_http_status"),
        ),
        Tile(
            "errors",
            "Errors by HTTP status",
            "Failed requests a day.",
            _trends(_of_all("total"), failed, "ActionsBar", "$ai_http_status"),
        ),
        Tile(
            "latency",
            "Latency by model",
            "Seconds until the whole answer was there, median and 95th percentile.",
            _trends(_spread("$ai_latency"), answered, "ActionsTable", "$ai_model", decimalPlaces=2),
        ),
        Tile(
            "first-token",
            "Time to first token by model",
            "Seconds until the answer began, median and 95th percentile.",
            _trends(
                _spread("$ai_time_to_first_token"),
                answered,
                "ActionsTable",
                "$ai_model",
                decimalPlaces=2,
            ),
        ),
        Tile(
            "tokens",
            "Tokens by kind",
            "Tokens a day. Cache reads and writes are part of the input, reasoning of the output.",
            _trends(_tokens(), only, "ActionsLineGraph"),
        ),
    ]


def _shares(only: list[Query]) -> list[Tile]:
    return [
        Tile(
            "cache-share",
            "Cache share of input tokens",
            "Of a day's input tokens, the share that was read from the vendor's cache.",
            _share(
                [
                    _series(_LLM, "Cache reads", "sum", "$ai_cache_read_input_tokens"),
                    _series(_LLM, "Input", "sum", "$ai_input_tokens"),
                ],
                only,
                {"A / B": "Read from cache"},
            ),
        ),
        Tile(
            "interrupted-and-estimated",
            "Interrupted and estimated requests",
            "Of a day's requests, the share that was cut off, and that whose amount is estimated.",
            _share(
                [
                    _series(_LLM, "Interrupted", only=[_equals("outcome", "interrupted")]),
                    _series(_LLM, "Estimated", only=[_equals("provenance", "estimated")]),
                    _series(_LLM, "All"),
                ],
                only,
                {"A / C": "Interrupted", "B / C": "Estimated"},
            ),
        ),
        Tile(
            "save-mode",
            "Save mode",
            "Of a day's requests, the share that was made cheaper.",
            _share(
                [
                    _series(_LLM, "Saved", only=[_equals("save_mode", "true")]),
                    _series(_LLM, "All"),
                ],
                only,
                {"A / B": "In save mode"},
            ),
        ),
    ]


def _of_all(math: str, of: str | None = None) -> list[Query]:
    """A series for each kind of event: PostHog keeps embeddings apart."""
    return [_series(event, name, math, of) for event, name in _NAMES.items()]


def _spread(of: str) -> list[Query]:
    return [_series(_LLM, "Median", "median", of), _series(_LLM, "95th percentile", "p95", of)]


def _tokens() -> list[Query]:
    return [
        _series(_LLM, "Input", "sum", "$ai_input_tokens"),
        _series(_LLM, "Cache reads", "sum", "$ai_cache_read_input_tokens"),
        _series(_LLM, "Cache writes", "sum", "$ai_cache_creation_input_tokens"),
        _series(_LLM, "Output", "sum", "$ai_output_tokens"),
        _series(_LLM, "Reasoning", "sum", "$ai_reasoning_tokens"),
        _series(_EMBEDDING, "Embedded", "sum", "$ai_input_tokens"),
    ]


def _series(
    event: str, name: str, math: str = "total", of: str | None = None, only: Sequence[Query] = ()
) -> Query:
    return {
        "kind": "EventsNode",
        "event": event,
        "custom_name": name,
        "math": math,
        **({"math_property": of} if of else {}),
        **({"properties": list(only)} if only else {}),
    }


def _share(series: list[Query], only: list[Query], formulas: dict[str, str]) -> Query:
    nodes = [{"formula": formula, "custom_name": name} for formula, name in formulas.items()]
    return _trends(
        series,
        only,
        "ActionsLineGraph",
        formulaNodes=nodes,
        aggregationAxisFormat="percentage_scaled",
    )


def _trends(
    series: list[Query],
    only: list[Query],
    display: str,
    breakdown: str | None = None,
    kind: str = "event",
    **shown: Any,
) -> Query:
    by = {"breakdown": breakdown, "breakdown_type": kind, "breakdown_limit": 25}
    return {
        "kind": "InsightVizNode",
        "source": {
            "kind": "TrendsQuery",
            "series": series,
            **({"breakdownFilter": by} if breakdown else {}),
            "trendsFilter": {"display": display, **shown},
            "dateRange": PERIOD,
            "interval": "day",
            "properties": only,
        },
    }


def _table(hogql: str, only: list[Query]) -> Query:
    filters = {"dateRange": PERIOD, "properties": only}
    source = {"kind": "HogQLQuery", "query": hogql, "filters": filters}
    return {"kind": "DataVisualizationNode", "source": source}


def _equals(name: str, value: str) -> Query:
    return {"type": "event", "key": name, "operator": "exact", "value": [value]}


def _event_list() -> str:
    return ", ".join(f"'{name}'" for name in dict.fromkeys(EVENT_NAMES.values()))
