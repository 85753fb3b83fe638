"""The formats of price files and product files, from the models that validate them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from flow.domain.pricing import price_file
from flow.domain.products import product_file, product_tables
from flow.domain.products.product import Models, Product, Saving
from generate.markdown import Descriptions, code, page, paragraphs, table

_PRICES = """\
A price file is yours: `FLOW_PRICES_FILE` names it, and its lines go before Flow's own and before
those of `genai-prices`. It is checked when the service starts. [Prices](../guides/prices.md) says
how a price is found."""

_PRODUCTS = """\
`FLOW_PRODUCTS_FILE` names your products, in place of Flow's own as a whole; start with a copy of
those [below](#flows-own-products). The file is checked when the service starts. [Budgets and
limits](../guides/budgets.md) says what the fields are for."""


def prices_page(descriptions: Descriptions) -> str:
    """The reference of price files."""
    entry, multiple = price_file.Entry, price_file.MultipleTable
    return page(
        "Price files",
        _PRICES,
        _format(price_file, "toml"),
        "## Fields of a `[[price]]`",
        _fields(entry, descriptions, "price"),
        "## Fields of a multiple",
        _fields(multiple, descriptions, "multiples"),
    )


def products_page(descriptions: Descriptions) -> str:
    """The reference of product files."""
    tables: Iterable[tuple[str, type[BaseModel], Any]] = (
        ("[product]", product_tables.ProductTable, Product("name", billable=True)),
        ("[product.llm]", product_tables.LlmTable, Models()),
        ("[product.stt]", product_tables.SttTable, Models()),
        ("[product.tts]", product_tables.TtsTable, Models()),
        ("[product.realtime]", product_tables.RealtimeTable, Models()),
        ("[product.saving]", product_tables.SavingTable, Saving()),
    )
    parts = []
    for name, model, defaults in tables:
        parts += [f"## Fields of `{name}`", _fields(model, descriptions, name, defaults)]
    shipped = (Path(inspect.getfile(product_file)).parent / "products.toml").read_text("utf-8")
    return page(
        "Product files",
        _PRODUCTS,
        _format(product_file, "toml"),
        *parts,
        "## Flow's own products",
        f"```toml\n{shipped.strip()}\n```",
    )


def _format(module: ModuleType, language: str) -> str:
    """What the module says of the file, without its first sentence, its code fenced."""
    said = paragraphs((module.__doc__ or "").partition("\n\n")[2])
    lines: list[str] = []
    is_code = False
    for line in said.splitlines():
        indented = line.startswith("    ")
        if indented != is_code and line.strip():
            if is_code and not lines[-1].strip():
                lines.pop()
            lines += [f"```{language}"] if indented else ["```", ""]
            is_code = indented
        lines.append(line.removeprefix("    ") if is_code else line)
    if is_code:
        lines.append("```")
    return "\n".join(lines)


def _fields(
    model: type[BaseModel], descriptions: Descriptions, name: str, defaults: Any = None
) -> str:
    rows = []
    for field, info in model.model_fields.items():
        default = getattr(defaults, field, None) if defaults is not None else info.default
        rows.append(
            [
                code(field),
                "required" if info.is_required() else _shown(default),
                descriptions.of(f"{name}.{field}", info.description),
            ]
        )
    return table(["field", "default", "meaning"], rows)


def _shown(default: Any) -> str:
    if default is None or default is PydanticUndefined or isinstance(default, BaseModel):
        return ""
    if isinstance(default, bool):
        return code(str(default).lower())
    if isinstance(default, int):
        return code(default)
    return code(default) if isinstance(default, str) and default else ""
