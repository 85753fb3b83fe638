"""Answers of PostHog's queries, worked out from the events that the stand-in has.

They run on SQLite: HogQL is a dialect of SQL, of which what Flow uses differs only in functions and
in how properties are named. A function or a column that is not here is refused, as PostHog does.
"""

from __future__ import annotations

import ast
import json
import operator
import re
import sqlite3
import statistics
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

from flow.sandbox.posthog.events import Event
from flow.sandbox.posthog.query_schema import (
    OF_A_PROPERTY,
    TOTALS,
    DataVisualizationNode,
    DateRange,
    EventPropertyFilter,
    EventsNode,
    InsightVizNode,
    TrendsQuery,
)

NO_BREAKDOWN = "$$_posthog_breakdown_null_$$"
Json = dict[str, Any]

_PROPERTY = re.compile(r"(?<![\w.$'])(person\.)?properties\.([\w$]+)")
_DAYS = re.compile(r"-(\d+)d")
_ALL_TIME = "0001-01-01"
_OPERATORS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: lambda a, b: a / b if b else 0.0,
}


class BadQuery(ValueError):
    """A query that PostHog refuses or cannot run."""


def answer(
    query: InsightVizNode | DataVisualizationNode, events: Iterable[Event], now: datetime
) -> Json:
    """The results of a query.

    Raises:
        BadQuery: it has a mistake that its schema does not show.
    """
    with closing(_database(events)) as database:
        try:
            if isinstance(query, InsightVizNode):
                return {"results": _trends(database, query.source, now)}
            return _select(database, query, now)
        except sqlite3.Error as error:
            raise BadQuery(str(error)) from None


def properties_in(hogql: str) -> set[str]:
    """The properties of events that HogQL reads."""
    return {name for of_person, name in _PROPERTY.findall(hogql) if not of_person}


def _select(database: sqlite3.Connection, query: DataVisualizationNode, now: datetime) -> Json:
    hogql, filters = query.source.query, query.source.filters
    if not hogql.lstrip().lower().startswith("select") or ";" in hogql:
        raise BadQuery("Only one select can be run.")
    if filters is not None:
        if "{filters}" not in hogql:
            raise BadQuery("The query has filters and no placeholder {filters} for them.")
        found = _conditions(filters.properties or [], filters.dateRange, now)
        hogql = hogql.replace("{filters}", f"({' and '.join(found)})")
    cursor = database.execute(_sql(hogql))
    return {"columns": [column[0] for column in cursor.description], "results": cursor.fetchall()}


def _trends(database: sqlite3.Connection, query: TrendsQuery, now: datetime) -> list[Json]:
    shown = query.trendsFilter
    is_total = shown is not None and shown.display in TOTALS
    start = _start(query.dateRange, now)
    days = [""] if is_total else _days(database, start, now)
    series = [_series(database, one, query, start, days) for one in query.series]
    if shown is not None and shown.formulaNodes:
        return [
            _result(node.custom_name or node.formula, breakdown, data, days)
            for node in shown.formulaNodes
            for breakdown, data in _formula(node.formula, series).items()
        ]
    return [
        _result(node.custom_name or node.event or "", breakdown, data, days)
        for node, found in zip(query.series, series, strict=True)
        for breakdown, data in found.items()
    ]


def _result(label: str, breakdown: str, data: Sequence[float], days: Sequence[str]) -> Json:
    told: Json = {"label": label, "breakdown_value": breakdown}
    if list(days) == [""]:
        return told | {"aggregated_value": data[0]}
    return told | {"days": list(days), "data": list(data), "count": sum(data)}


def _series(
    database: sqlite3.Connection, node: EventsNode, query: TrendsQuery, start: str, days: list[str]
) -> dict[str, list[float]]:
    """A value a day, or one in all, by breakdown."""
    math = node.math or "total"
    if (math in OF_A_PROPERTY) != (node.math_property is not None):
        raise BadQuery(f"The math {math!r} and the property {node.math_property!r} do not fit.")
    value = "1" if node.math_property is None else f"toFloat({_named(node.math_property)})"
    where = _conditions([*query.properties, *(node.properties or [])], query.dateRange, None)
    if node.event is not None:
        where.append(f"event = {_quoted(node.event)}")
    where.append(f"timestamp >= {_quoted(start)}")
    day = "''" if days == [""] else "substr(timestamp, 1, 10)"
    function = {"total": "count", "avg": "avg", "sum": "sum", "min": "min", "max": "max"}
    aggregate = f"{function.get(math, math)}({value})"
    # Every part is either of this module or quoted by it.
    select = f"select {_breakdown(query)}, {day}, {aggregate} from events"  # noqa: S608
    rows = database.execute(f"{select} where {' and '.join(where)} group by 1, 2 order by 1")
    found: dict[str, list[float]] = {}
    for breakdown, at, amount in rows:
        name = NO_BREAKDOWN if breakdown is None else str(breakdown)
        found.setdefault(name, [0.0] * len(days))[days.index(at)] = amount or 0.0
    return found


def _formula(text: str, series: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    breakdowns = dict.fromkeys(name for one in series for name in one)
    length = max((len(data) for one in series for data in one.values()), default=0)
    zeros = [0.0] * length
    found = {}
    for name in breakdowns:
        data = [one.get(name, zeros) for one in series]
        found[name] = [_calculated(text, [one[at] for one in data]) for at in range(length)]
    return found


def _calculated(text: str, values: Sequence[float]) -> float:
    def of(node: ast.AST) -> float:
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](of(node.left), of(node.right))
        if isinstance(node, ast.Name) and len(node.id) == 1 and ord(node.id) - 65 < len(values):
            return values[ord(node.id) - 65]
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return float(node.value)
        raise BadQuery(f"The formula {text!r} cannot be calculated.")

    try:
        return of(ast.parse(text, mode="eval").body)
    except SyntaxError:
        raise BadQuery(f"The formula {text!r} cannot be calculated.") from None


def _breakdown(query: TrendsQuery) -> str:
    by = query.breakdownFilter
    if by is None or by.breakdown is None:
        return "''"
    if by.breakdown_type == "hogql":
        return _sql(by.breakdown)
    of = "person" if by.breakdown_type == "person" else "properties"
    return f"prop({of}, {_quoted(by.breakdown)})"


def _conditions(
    filters: Sequence[EventPropertyFilter], period: DateRange | None, now: datetime | None
) -> list[str]:
    found = ["true"]
    for one in filters:
        value, values = _named(one.key), one.value if isinstance(one.value, list) else [one.value]
        listed = ", ".join(_quoted(str(each)) for each in values)
        found.append(
            {
                "exact": f"toString({value}) in ({listed})",
                "is_not": f"coalesce(toString({value}) not in ({listed}), true)",
                "is_set": f"{value} is not null",
                "is_not_set": f"{value} is null",
            }[one.operator]
        )
    if now is not None:
        found.append(f"timestamp >= {_quoted(_start(period, now))}")
    return found


def _start(period: DateRange | None, now: datetime) -> str:
    said = None if period is None else period.date_from
    if said is None or said == "all":
        return _ALL_TIME
    if not (found := _DAYS.fullmatch(said)):
        raise BadQuery(f"The stand-in does not know the date {said!r}.")
    return (now - timedelta(days=int(found[1]))).date().isoformat()


def _days(database: sqlite3.Connection, start: str, now: datetime) -> list[str]:
    if start == _ALL_TIME:
        (first,) = database.execute("select min(timestamp) from events").fetchone()
        start = (first or now.isoformat())[:10]
    day, found = datetime.fromisoformat(start).date(), []
    while day <= now.date() + timedelta(days=1):
        found.append(day.isoformat())
        day += timedelta(days=1)
    return found


def _sql(hogql: str) -> str:
    return _PROPERTY.sub(lambda m: f"prop({'person' if m[1] else 'properties'}, '{m[2]}')", hogql)


def _named(name: str) -> str:
    return f"prop(properties, {_quoted(name)})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _database(events: Iterable[Event]) -> sqlite3.Connection:
    found = sqlite3.connect(":memory:")
    found.execute("create table events (uuid, event, distinct_id, timestamp, properties, person)")
    kept = list(events)
    persons: dict[str, Json] = {}
    for event in kept:
        persons.setdefault(event.distinct_id, {}).update(event.properties.get("$set", {}))
    found.executemany(
        "insert into events values (?, ?, ?, ?, ?, ?)",
        [
            (
                *(event.uuid, event.name, event.distinct_id, _utc(event.timestamp)),
                *(json.dumps(event.properties), json.dumps(persons[event.distinct_id])),
            )
            for event in kept
        ],
    )
    for name, count, function in _FUNCTIONS:
        found.create_function(name, count, function, deterministic=True)
    for name, count, aggregate in _AGGREGATES:
        found.create_aggregate(name, count, aggregate)
    return found


def _utc(timestamp: str | None) -> str:
    at = datetime.fromisoformat(timestamp) if timestamp else datetime.now(UTC)
    return at.astimezone(UTC).isoformat()


def _prop(properties: str, name: str) -> Any:
    """A property as HogQL sees it: a boolean is text until PostHog knows its type."""
    value = json.loads(properties).get(name)
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, list | dict) else value


def _float(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


_FUNCTIONS: tuple[tuple[str, int, Callable[..., Any]], ...] = (
    ("prop", 2, _prop),
    ("toFloat", 1, _float),
    ("toString", 1, lambda value: None if value is None else str(value)),
    ("concat", -1, lambda *parts: None if None in parts else "".join(map(str, parts))),
    ("if", 3, lambda condition, then, other: then if condition else other),
)


class _SumIf:
    def __init__(self) -> None:
        self._total = 0.0

    def step(self, value: float | None, condition: Any) -> None:
        self._total += (value or 0.0) if condition else 0.0

    def finalize(self) -> float:
        return self._total


class _CountIf:
    def __init__(self) -> None:
        self._count = 0

    def step(self, condition: Any) -> None:
        self._count += bool(condition)

    def finalize(self) -> int:
        return self._count


class _Median:
    share = 0.5

    def __init__(self) -> None:
        self._values: list[float] = []

    def step(self, value: float | None) -> None:
        if value is not None:
            self._values.append(value)

    def finalize(self) -> float | None:
        if len(self._values) < 2:
            return next(iter(self._values), None)
        cuts = statistics.quantiles(self._values, n=100, method="inclusive")
        return cuts[round(self.share * 100) - 1]


class _P95(_Median):
    share = 0.95


_AGGREGATES: tuple[tuple[str, int, Any], ...] = (
    ("sumIf", 2, _SumIf),
    ("countIf", 1, _CountIf),
    ("median", 1, _Median),
    ("p95", 1, _P95),
)
