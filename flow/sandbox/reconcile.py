"""Holding a ledger against a vendor's bill, line of business by line of business.

What the vendor reported or Flow measured must agree to the last token, character and
microsecond. Only what the ledger itself calls estimated may differ, and by no more than the
tolerance of each estimated row:

- tokens of the prompt: 8, or 5 %;
- tokens generated: 16, or 10 % (what was on its way when the stream was closed);
- seconds of speech that was cut off: 1, or 35 % (its length is guessed from its characters);
- tokens of sound that was heard without a report, which is accounted in seconds alone: 12 for each
  second of it, and 16 for its text;
- a request that failed, or was cut off, before an answer began: all of it, for the vendor may
  have served it or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from flow.domain.usage.units import UNITS, Measure
from flow.sandbox.bill import Line

Row = Mapping[str, Any]

NOT_OF_MODELS = frozenset({"call", "telephony"})
"""Kinds of work that no vendor of models does."""

_CACHE_READ = "llm_cache_read"

_TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens")
_AUDIO_TOKENS = ("prompt_audio_tokens", "completion_audio_tokens")
QUANTITIES: Mapping[str, tuple[str, ...]] = {
    "llm": (*_TOKENS, *_AUDIO_TOKENS),
    "embedding": ("prompt_tokens",),
    "tts": ("characters", "audio_seconds"),
    "stt": (*_TOKENS, "audio_seconds"),
}
"""By kind of work, what is compared. A vendor that counts speech in tokens says so beside its
characters and seconds: the tokens are compared where the ledger has any."""

TOLERANCES: Mapping[str, tuple[Decimal, Decimal]] = {
    "prompt_tokens": (Decimal(8), Decimal("0.05")),
    "cached_tokens": (Decimal(0), Decimal(1)),
    "completion_tokens": (Decimal(16), Decimal("0.10")),
    "prompt_audio_tokens": (Decimal(0), Decimal(1)),
    "completion_audio_tokens": (Decimal(0), Decimal(1)),
    "characters": (Decimal(0), Decimal(0)),
    "audio_seconds": (Decimal(1), Decimal("0.35")),
}
"""By quantity: what an estimated row may be off by, absolutely and as a share of itself. How
much of a prompt came from the cache, and how much of anything was sound, is not guessed: that may
be off by the whole of it."""
_SHARE_OF = {
    "cached_tokens": "prompt_tokens",
    "prompt_audio_tokens": "prompt_tokens",
    "completion_audio_tokens": "completion_tokens",
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One quantity of one model, as the ledger has it and as the vendor bills it.

    ``provider`` is empty where the bill of one vendor alone is compared.
    """

    kind: str
    model: str
    quantity: str
    ledger: Decimal
    vendor: Decimal
    tolerance: Decimal
    provider: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the two differ by no more than the estimates allow."""
        return abs(self.ledger - self.vendor) <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """The comparison with its numbers as strings."""
        return {
            "provider": self.provider,
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

    ``rows`` are ledger rows as ``Database.get_thread_usage`` gives them; those of `NOT_OF_MODELS`
    are left out: a carrier's bill is of prices, not of quantities.
    """
    ours: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["kind"] not in NOT_OF_MODELS and _amount(row) != {}:
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


def reconcile_all(rows: Sequence[Row], bills: Mapping[str, Iterable[Line]]) -> list[Comparison]:
    """Compare every vendor's rows with its bill; ``bills`` are by the vendors' names. Rows of a
    vendor without a bill agree with nothing."""
    providers = {row["provider"] for row in rows if row["kind"] not in NOT_OF_MODELS}
    return [
        replace(comparison, provider=provider)
        for provider in sorted({*providers, *bills})
        for comparison in reconcile(
            [row for row in rows if row["provider"] == provider], bills.get(provider, ())
        )
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
    for quantity in _billed_by(key[0], lines):
        least, share = TOLERANCES[quantity]
        share_of = _SHARE_OF.get(quantity, quantity)
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
        if key[0] == "stt" and quantity in _TOKENS:
            allowed += sum((_untold_tokens(row) for row in rows), Decimal(0))
        must_be_counted = key[0] in ("llm", "embedding") or quantity not in _TOKENS
        if ledger or (vendor and must_be_counted):
            yield Comparison(*key, quantity, ledger, vendor, allowed)


def _billed_by(kind: str, lines: Sequence[Line]) -> Iterable[str]:
    """The quantities that a vendor bills by; where it billed nothing, any may be wrong."""
    billed = {name for line in lines for name in line.billed_by or QUANTITIES[kind]}
    return (name for name in QUANTITIES[kind] if name in billed or not lines)


def _untold_tokens(row: Row) -> Decimal:
    """How many tokens sound may have been that nobody reported in tokens."""
    amounts = _amount(row)
    if "prompt_tokens" in amounts or "audio_seconds" not in amounts:
        return Decimal(0)
    return amounts["audio_seconds"] * 12 + 16


def _is_unanswered(row: Row) -> bool:
    generated = _amount(row).get("completion_tokens")
    nothing_came = not generated and row.get("time_to_first_token_secs") is None
    return bool(row["outcome"] in {"error", "interrupted"} and nothing_came)


def _is_estimate(row: Row) -> bool:
    return bool(row["provenance"] == "estimated")


def _amount(row: Row) -> dict[str, Decimal]:
    """A row in the vendor's terms, without what is zero; prompts are gross of their cache."""
    used = [
        (UNITS[line["unit"]], Decimal(line["quantity"]))
        for line in row["lines"]
        if line.get("part_of") is None
    ]
    tokens = [(unit, amount) for unit, amount in used if unit.measure is Measure.TOKENS]
    amounts = {
        "prompt_tokens": sum(amount for unit, amount in tokens if unit.side == "input"),
        "cached_tokens": sum(amount for unit, amount in tokens if unit.component == _CACHE_READ),
        "completion_tokens": sum(amount for unit, amount in tokens if unit.side == "output"),
        **_audio_tokens(row),
        **{unit.name: amount for unit, amount in used if unit.measure is not Measure.TOKENS},
    }
    return {name: Decimal(amount) for name, amount in amounts.items() if amount}


def _audio_tokens(row: Row) -> dict[str, Decimal]:
    """Tokens of sound, which are part of the others, whether they were cached or not."""
    found = dict.fromkeys(_AUDIO_TOKENS, Decimal(0))
    for line in row["lines"]:
        if line["unit"].endswith("_audio_tokens"):
            is_input = UNITS[line["unit"]].side == "input"
            found[_AUDIO_TOKENS[0 if is_input else 1]] += Decimal(line["quantity"])
    return found
