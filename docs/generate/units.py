"""The units of the ledger, from their registry."""

from __future__ import annotations

from flow.domain.usage.units import COMPONENTS, UNITS, Kind
from generate.markdown import Descriptions, code, page, table

_INTRO = """\
A row of the ledger has a line for each unit that the work used: `{"unit", "quantity", "cost_usd",
"component", "part_of"}`. Units without `part of` are disjoint: no token, character or second is
in two of them, and their quantities add up. A unit that is part of another counts some of that
one again ("of which"); its quantity is never added up. Costs are disjoint on all lines. In [price
files](prices.md) a rate is given by unit.

The names end by what they measure: `_tokens` are those that `total_tokens` adds up."""


def units_page(descriptions: Descriptions) -> str:
    """The reference of units, kinds of work and components of cost."""
    rows = [
        [
            code(unit.name),
            descriptions.of(f"unit {unit.name}", unit.counts),
            unit.measure.value,
            code(unit.part_of),
            code(unit.component),
            code(unit.priced_as),
        ]
        for unit in UNITS.values()
    ]
    titles = ["unit", "counts", "measured in", "part of", "component", "without a rate priced as"]
    return page(
        "Units of the ledger",
        _INTRO,
        table(titles, rows),
        f"**Kinds** of work are {', '.join(map(code, Kind))}.",
        f"**Components** of cost are {', '.join(map(code, COMPONENTS))}; in any other kind of work"
        " than `llm` the component is the kind itself.",
    )
