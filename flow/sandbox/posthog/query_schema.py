"""PostHog's schema of queries, of which only the kinds and fields that Flow uses are here.

From ``frontend/src/queries/schema.json`` of PostHog's repository. As there, a field that is not in
the schema is refused, and so is a value of another type.
"""

# The fields have the names of the schema.
# ruff: noqa: N815

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Display = Literal[
    "ActionsLineGraph", "ActionsBar", "ActionsUnstackedBar", "ActionsAreaGraph",
    "ActionsLineGraphCumulative", "BoldNumber", "ActionsPie", "ActionsBarValue", "ActionsTable",
    "WorldMap", "CalendarHeatmap",
]  # fmt: skip
TOTALS = frozenset({"BoldNumber", "ActionsPie", "ActionsBarValue", "ActionsTable", "WorldMap"})
"""The displays of one value over the whole period, and not of one a day."""

Math = Literal[
    "total", "dau", "weekly_active", "monthly_active", "unique_session",
    "avg", "sum", "min", "max", "median", "p75", "p90", "p95", "p99",
]  # fmt: skip
OF_A_PROPERTY = frozenset({"avg", "sum", "min", "max", "median", "p75", "p90", "p95", "p99"})


class Node(BaseModel):
    """A part of a query."""

    model_config = ConfigDict(extra="forbid", strict=True)


class DateRange(Node):
    """The period."""

    date_from: str | None = None
    date_to: str | None = None
    explicitDate: bool | None = None


class EventPropertyFilter(Node):
    """Which events, by a property; any of the values will do."""

    type: Literal["event"]
    key: str
    operator: Literal["exact", "is_not", "is_set", "is_not_set"]
    value: list[str] | str | None = None
    label: str | None = None


class EventsNode(Node):
    """A series."""

    kind: Literal["EventsNode"]
    event: str | None = None
    name: str | None = None
    custom_name: str | None = None
    math: Math | None = None
    math_property: str | None = None
    properties: list[EventPropertyFilter] | None = None


class BreakdownFilter(Node):
    """What the series are divided by."""

    breakdown: str | None = None
    breakdown_type: Literal["event", "person", "hogql"] | None = None
    breakdown_limit: int | None = None
    breakdown_hide_other_aggregation: bool | None = None


class TrendsFormulaNode(Node):
    """A formula over the series, which are called A, B, C and so on."""

    formula: str
    custom_name: str | None = None


class TrendsFilter(Node):
    """How trends are shown."""

    display: Display | None = None
    formulaNodes: list[TrendsFormulaNode] | None = None
    aggregationAxisFormat: (
        Literal["numeric", "duration", "duration_ms", "percentage", "percentage_scaled", "currency"]
        | None
    ) = None
    aggregationAxisPrefix: str | None = None
    aggregationAxisPostfix: str | None = None
    decimalPlaces: float | int | None = None
    showLegend: bool | None = None


class TrendsQuery(Node):
    """Events over time or in all, by series and breakdown."""

    kind: Literal["TrendsQuery"]
    series: list[EventsNode]
    breakdownFilter: BreakdownFilter | None = None
    trendsFilter: TrendsFilter | None = None
    dateRange: DateRange | None = None
    interval: Literal["minute", "hour", "day", "week", "month"] | None = None
    properties: list[EventPropertyFilter] = []
    filterTestAccounts: bool | None = None


class InsightVizNode(Node):
    """Trends as an insight."""

    kind: Literal["InsightVizNode"]
    source: TrendsQuery


class HogQLFilters(Node):
    """What ``{filters}`` in HogQL stands for."""

    dateRange: DateRange | None = None
    properties: list[EventPropertyFilter] | None = None
    filterTestAccounts: bool | None = None


class HogQLQuery(Node):
    """A select in HogQL."""

    kind: Literal["HogQLQuery"]
    query: str
    filters: HogQLFilters | None = None


class DataVisualizationNode(Node):
    """A select as an insight."""

    kind: Literal["DataVisualizationNode"]
    source: HogQLQuery
    display: Display | None = None


Query = Annotated[InsightVizNode | DataVisualizationNode, Field(discriminator="kind")]

QUERY: TypeAdapter[InsightVizNode | DataVisualizationNode] = TypeAdapter(Query)
