"""Holding a ledger against a vendor's bill, line of business by line of business.

What the vendor reported or Flow measured must agree to the last token, character and
microsecond. Only what the ledger itself calls estimated may differ, and by no more than the
tolerance of each estimated row:

- tokens of the prompt: 8, or 5 %;
- tokens generated: 16, or 10 % (what was on its way when the stream was closed);
- seconds of speech that was cut off: 1, or 35 % (its length is guessed from its characters);
- a request that failed, or was cut off, before an answer began: all of it, for the vendor may
  have served it or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from flow.sandbox.bill import Line

Row = Mapping[str, Any]

QUANTITIES: Mapping[str, tuple[str, ...]] = {
    "llm": ("prompt_tokens", "cached_tokens", "completion_tokens"),
    "tts": ("characters", "audio_seconds"),
    "stt": ("audio_seconds",),
}
"""By kind of work, what is compared. Speech is accounted by characters and seconds; a vendor that
also counts it in tokens says so beside them."""

TOLERANCES: Mapping[str, tuple[Decimal, Decimal]] = {
    "prompt_tokens": (Decimal(8), Decimal("0.05")),
    "cached_tokens": (Decimal(0), Decimal(1)),
    "completion_tokens": (Decimal(16), Decimal("0.10")),
    "characters": (Decimal(0), Decimal(0)),
    "audio_seconds": (Decimal(1), Decimal("0.35")),
}
"""By quantity: what an estimated row may be off by, absolutely and as a share of itself. How
much of a prompt came from the cache is not guessed: that may be off by the whole prompt."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One quantity of one model, as the ledger has it and as the vendor bills it."""

    kind: str
    model: str
    quantity: str
    ledger: Decimal
    vendor: Decimal
    tolerance: Decimal

    @property
    def agrees(self) -> bool:
        """Whether the two differ by no more than the estimates allow."""
        return abs(self.ledger - self.vendor) <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """The comparison with its numbers as strings."""
        return {
            "kind": self.kind,
            "model": self.model,
            "quantity": self.quantity,
            "ledger": str(self.ledger),
            "vendor": str(self.vendor),
            "tolerance": str(self.tolerance),
            "agrees": self.agrees,
        }


def reconcile(rows: Sequence[Row], lines: Iterable[Line]) -> list[Comparison]:
    """Compare every quantity that either side has anything of.

    ``rows`` are ledger rows as ``Database.get_thread_usage`` gives them; rows of kind ``call``
    are no vendor's business and are left out.
    """
    ours: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["kind"] != "call" and _amount(row) != {}:
            ours.setdefault((row["kind"], row["model"]), []).append(row)
    theirs: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        theirs.setdefault((line.kind, line.model), []).append(line)
    _join_unnamed(ours, theirs)
    return [
        comparison
        for key in sorted({*ours, *theirs})
        for comparison in _compare(key, ours.get(key, []), theirs.get(key, []))
    ]


def _join_unnamed(
    ours: dict[tuple[str, str], list[Row]], theirs: Mapping[tuple[str, str], list[Line]]
) -> None:
    """An answer that never came does not say which model served: find it in the bill."""
    served = {
        (kind, line.requested_model): kind_model
        for kind_model, some in theirs.items()
        for kind, line in ((kind_model[0], one) for one in some)
    }
    for key in [key for key in ours if key not in theirs and key in served]:
        ours.setdefault(served[key], []).extend(ours.pop(key))


def _compare(
    key: tuple[str, str], rows: Sequence[Row], lines: Sequence[Line]
) -> Iterable[Comparison]:
    for quantity in QUANTITIES[key[0]]:
        least, share = TOLERANCES[quantity]
        share_of = "prompt_tokens" if quantity == "cached_tokens" else quantity
        ledger = sum((_amount(row).get(quantity, Decimal(0)) for row in rows), Decimal(0))
        vendor = sum((Decimal(getattr(line.amounts, quantity)) for line in lines), Decimal(0))
        allowed = sum(
            (
                max(
                    least,
                    _amount(row).get(share_of, Decimal(0)) * (1 if _is_unanswered(row) else share),
                )
                for row in rows
                if _is_estimate(row)
            ),
            Decimal(0),
        )
        if ledger or vendor:
            yield Comparison(*key, quantity, ledger, vendor, allowed)


def _is_unanswered(row: Row) -> bool:
    nothing_came = row["output_tokens"] == 0 and row["time_to_first_token_secs"] is None
    return bool(row["outcome"] in {"error", "interrupted"} and nothing_came)


def _is_estimate(row: Row) -> bool:
    return bool(row["provenance"] == "estimated")


def _amount(row: Row) -> dict[str, Decimal]:
    """A row in the vendor's terms, without what is zero; prompts are gross of their cache."""
    read, write = row["cache_read_tokens"], row["cache_write_tokens"]
    amounts = {
        "prompt_tokens": Decimal(row["input_tokens"] + read + write),
        "cached_tokens": Decimal(read),
        "completion_tokens": Decimal(row["output_tokens"]),
        "characters": Decimal(row["characters"]),
        "audio_seconds": Decimal(row["audio_seconds"]),
    }
    return {name: amount for name, amount in amounts.items() if amount}
