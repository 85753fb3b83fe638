"""What a product file says, in TOML. The operator's file replaces the shipped one as a whole.

::

    [voice_bot]                          # the name: [a-z][a-z0-9_-]*
    billable = true                      # required: whether its usage is charged to the team
    calls = true                         # whether calls can be joined for it
    aliases = ["voice"]                  # other names a join may use
    credit_bucket = "ai_credits"         # the team's quota that its billable cost counts against
    max_duration_secs = 1800             # the longest call, 5 to 14400
    reservation_usd = "0.10"             # held from the key's budget while a call has used less
    reservation_secs = 60                # held from the team's call seconds likewise
    concurrency_per_key = 10             # calls one key may have at once; left out: no limit
    on_exceeded = "finish"               # or "wrap_up": end running calls when the budget is gone
    wrap_up_secs = 15                    # 1 to 120, from the goodbye to the end
    goodbye = "I have to end our call here."
    save_mode = "auto"                   # off, auto or on where neither key nor join says
    unpriced = "refuse"                  # or "allow": a model without a price, under a budget

    [voice_bot.llm]                      # likewise .stt and .tts
    default = "openai/gpt-4.1"           # left out: what the service's environment says
    allowed = ["openai/*", "groq/*"]     # patterns with *, ? and [...]; left out: any
    voice = "alloy"                      # tts only

    [voice_bot.saving]                   # what save mode does; what is left out it leaves alone
    models = { "openai/gpt-4.1" = "openai/gpt-4.1-mini" }
    max_tokens = 150                     # of a reply, 1 to 32768
    instruction = "Answer in one or two short sentences."
    prompt_cache = true                  # keep cached prompts for longer

``insights`` is what the step after a call may use: ``calls`` is false, and it has none of what
only a call has. Nobody asks for its models in a join, so one without a price is not refused: the
start of the service warns of it, unless ``unpriced`` says ``"allow"``. A file without it gets the
shipped one. What is left out has the default of `flow.domain.products.product.Product`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from importlib import resources
from pathlib import Path
from typing import Any

from flow.domain.products.product import CALL_FIELDS, INSIGHTS, Product, Products
from flow.domain.products.product_fields import (
    Check,
    Place,
    bucket,
    choice,
    fields,
    flag,
    name,
    names,
    text,
    usd,
    whole,
)
from flow.domain.products.product_models import Parts, models, saving
from flow.domain.products.save_mode import SaveMode
from flow.errors import ConfigurationError
from flow.kit.toml_lines import KeyLines
from flow.kit.toml_lines import Path as KeyPath

__all__ = ["Parts", "read_products"]

_SHIPPED = "products.toml"
_LONGEST_CALL_SECS = 14_400


def read_products(path: Path | None, vendors: Parts) -> Products:
    """The products of the operator's file, or the shipped ones without it.

    Args:
        path: the operator's file.
        vendors: the vendors that each of ``llm``, ``stt`` and ``tts`` may come from.

    Raises:
        ConfigurationError: the file cannot be read, or one sentence for each mistake in it, with
            file, line and key.
    """
    if path is None:
        return Products(_shipped(vendors))
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The product file {path} cannot be read: {error}.") from None
    products = _File(str(path), text, vendors).read()
    if all(product.name != INSIGHTS for product in products):
        products += [product for product in _shipped(vendors) if product.name == INSIGHTS]
    return Products(products)


def _shipped(vendors: Parts) -> list[Product]:
    text = resources.files("flow.domain.products").joinpath(_SHIPPED).read_text("utf-8")
    return _File(_SHIPPED, text, vendors).read()


def _checks(vendors: Parts) -> dict[str, Check]:
    """What each field of a product may hold."""
    return {
        "billable": flag,
        "calls": flag,
        "aliases": names,
        "credit_bucket": bucket,
        "max_duration_secs": whole(5, _LONGEST_CALL_SECS),
        "reservation_usd": usd,
        "reservation_secs": whole(0, _LONGEST_CALL_SECS),
        "concurrency_per_key": whole(1, 1_000_000),
        "on_exceeded": choice("finish", "wrap_up"),
        "wrap_up_secs": whole(1, 120),
        "goodbye": text(1_000),
        "save_mode": choice("off", "auto", "on", of=SaveMode),
        "unpriced": choice("refuse", "allow"),
        "llm": models("llm", vendors),
        "stt": models("stt", vendors),
        "tts": models("tts", vendors),
        "saving": saving(vendors),
    }


class _File:
    """One product file, read once; collects what is wrong with it."""

    def __init__(self, where: str, text: str, vendors: Parts) -> None:
        self._where = where
        try:
            self._data = tomllib.loads(text, parse_float=_number)
        # Endless integers and brackets are no TOMLDecodeError.
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(f"{where} is not TOML: {error}.") from None
        self._lines = KeyLines(text)
        self._checks = _checks(vendors)
        self._mistakes: list[tuple[int, str]] = []

    def read(self) -> list[Product]:
        """The file's products in its order.

        Raises:
            ConfigurationError: one sentence for each mistake.
        """
        products = [self._product(name, table) for name, table in self._data.items()]
        self._check_aliases(products)
        self._check_calls()
        if self._mistakes:
            self._mistakes.sort(key=lambda mistake: mistake[0])
            raise ConfigurationError("\n".join(said for _, said in self._mistakes))
        return products

    def _product(self, called: str, table: Any) -> Product:
        place = Place(self._note, (called,))
        if not isinstance(table, Mapping):
            place.note("is no product: each is one table, such as [voice_bot]")
            return Product(called, billable=False)
        name(called, place)
        if "billable" not in table:
            place.note("billable is missing: say whether its usage is charged to the team")
        if called == INSIGHTS and table.get("calls", True) is True:
            place.at("calls").note("must be false: no call is joined for insights")
        checks = self._checks
        if table.get("calls") is False:
            checks = {**checks, **dict.fromkeys(CALL_FIELDS, _no_calls)}
        return Product(**{"name": called, "billable": False, **fields(table, place, checks)})

    def _check_aliases(self, products: list[Product]) -> None:
        """No name may stand for two products."""
        taken = {called: called for called in (INSIGHTS, *self._data)}
        for product in products:
            for alias in product.aliases:
                other = taken.setdefault(alias, product.name)
                if other != product.name or alias == product.name:
                    index = self._data[product.name]["aliases"].index(alias)
                    Place(self._note, (product.name, "aliases", index)).note(
                        f"{alias!r} is the product {other!r} already"
                    )

    def _check_calls(self) -> None:
        if not any(
            called != INSIGHTS and isinstance(table, Mapping) and table.get("calls") is not False
            for called, table in self._data.items()
        ):
            self._note((), "no product takes calls: write a table such as [voice_bot]")

    def _note(self, path: KeyPath, wrong: str) -> None:
        line = self._lines.line(path)
        where = self._where if line is None else f"{self._where}, line {line}"
        if keys := ".".join(_written(key) for key in path if isinstance(key, str)):
            where = f"{where}, {keys}"
        end = "" if wrong.endswith("?") else "."
        mistake = line or 0, f"{where}: {wrong}{end}"
        if mistake not in self._mistakes:  # a vendor may be wrong on both sides of a line
            self._mistakes.append(mistake)


def _number(digits: str) -> Decimal:
    """An exact number; one too large for any is refused where it stands, like NaN itself."""
    try:
        return Decimal(digits)
    except InvalidOperation:
        return Decimal("NaN")


def _no_calls(_: Any, place: Place) -> None:
    place.note(f"is for calls, and {place.path[0]!r} takes none: remove it")


def _written(key: str) -> str:
    """A key as TOML has it: in quotes unless it is plain."""
    plain = key.isascii() and key.replace("-", "_").isidentifier()
    return key if plain else f'"{key}"'
