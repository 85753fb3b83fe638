"""Product files, in TOML. The operator's file replaces the shipped one as a whole.

::

    [voice_bot]
    billable = true
    calls = true
    gateway = false
    permission = "product.voice"
    fallbacks = ["openai/gpt-4.1-mini"]
    aliases = ["voice"]
    credit_bucket = "ai_credits"
    max_duration_secs = 1800
    reservation_usd = "0.10"
    reservation_secs = 60
    concurrency_per_key = 10
    requests_per_minute = 600
    tokens_per_minute = 200_000
    concurrent_requests = 20
    on_exceeded = "finish"
    wrap_up_secs = 15
    goodbye = "I have to end our call here."
    early_replies = true
    save_mode = "auto"
    unpriced = "refuse"

    [voice_bot.llm]
    default = "openai/gpt-4.1"
    allowed = ["openai/*", "groq/*"]

    [voice_bot.tts]
    default = "openai/gpt-4o-mini-tts"
    voice = "alloy"

    [voice_bot.saving]
    models = { "openai/gpt-4.1" = "openai/gpt-4.1-mini" }
    max_tokens = 150
    instruction = "Answer in one or two short sentences."
    prompt_cache = true

``insights`` is what the step after a call may use: its ``calls`` is false, and it has no field that
only a call needs. No join asks for its models, so one without a price is not refused: the start of
the service warns of it, unless ``unpriced`` says ``"allow"``. A file without it gets the shipped
one. A field that is left out has the default of `flow.domain.products.product.Product`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flow.domain.products.product import INSIGHTS, Product, Products
from flow.domain.products.product_tables import (
    InsightsTable,
    ProductTable,
    Vendors,
    name_problem,
    problems_of,
)
from flow.errors import ConfigurationError

__all__ = ["Vendors", "read_products"]

_SHIPPED = "products.toml"


def read_products(path: Path | None, vendors: Vendors) -> Products:
    """The products of the operator's file, or the shipped ones without it.

    Args:
        path: the operator's file.
        vendors: the vendors that each part of a bot may come from.

    Raises:
        ConfigurationError: the file cannot be read, or one sentence for each mistake in it, with
            the file and the path of the field.
    """
    if path is None:
        return Products(_shipped(vendors))
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The product file {path} cannot be read: {error}.") from None
    products = _parse(text, str(path), vendors)
    if all(product.name != INSIGHTS for product in products):
        products += [product for product in _shipped(vendors) if product.name == INSIGHTS]
    return Products(products)


def _shipped(vendors: Vendors) -> list[Product]:
    text = resources.files("flow.domain.products").joinpath(_SHIPPED).read_text("utf-8")
    return _parse(text, _SHIPPED, vendors)


def _parse(text: str, where: str, vendors: Vendors) -> list[Product]:
    try:
        data = tomllib.loads(text, parse_float=_number)
    # Endless integers and brackets are no TOMLDecodeError.
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{where} is not TOML: {error}.") from None
    products: list[Product] = []
    mistakes: list[str] = []
    for name, fields in data.items():
        if not isinstance(fields, Mapping):
            mistakes.append(f"{name} is no product: each is one table, such as [voice_bot]")
            continue
        if problem := name_problem(name):
            mistakes.append(problem)
        table = InsightsTable if name == INSIGHTS else ProductTable
        try:
            products.append(table.model_validate(fields, context=vendors).product(name))
        except ValidationError as error:
            mistakes += problems_of(error, name)
    mistakes += [*_alias_problems(products, data), *_call_problems(data)]
    if mistakes:
        ends = ("" if one.endswith("?") else "." for one in mistakes)
        raise ConfigurationError(
            "\n".join(f"{where}: {one}{end}" for one, end in zip(mistakes, ends, strict=True))
        )
    return products


def _alias_problems(products: list[Product], data: Mapping[str, Any]) -> Iterator[str]:
    """No name may mean two products."""
    taken = {name: name for name in (INSIGHTS, *data)}
    for product in products:
        for alias in product.aliases:
            other = taken.setdefault(alias, product.name)
            if other != product.name or alias == product.name:
                yield f"{product.name}.aliases: {alias!r} is the product {other!r} already"


def _call_problems(data: Mapping[str, Any]) -> Iterator[str]:
    if not any(
        name != INSIGHTS and isinstance(table, Mapping) and table.get("calls") is not False
        for name, table in data.items()
    ):
        yield "no product takes calls: write a table such as [voice_bot]"


def _number(digits: str) -> Decimal:
    """An exact number; one too large for any is NaN, which every field refuses."""
    try:
        return Decimal(digits)
    except InvalidOperation:
        return Decimal("NaN")
