"""Every setting: names and meanings from ``env.example``, types and defaults from the settings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from flow.bot.vendors import VENDORS
from flow.settings import Settings
from generate.markdown import Descriptions, code, one_line, page, table

_EXAMPLE = Path(__file__).parents[2] / "env.example"
_INTRO = """\
`flow serve`, `flow worker`, `flow migrate`, `flow dev` and the operator commands read the
environment once. An empty variable counts as not set. `env.example` in the repository has every
line of this page, to be copied to `.env`. [Configuration](../guides/configuration.md) says which
of them a service needs."""


@dataclass
class _Section:
    title: str
    rows: list[list[str]] = field(default_factory=list)


def settings_page(descriptions: Descriptions) -> str:
    """The reference of the environment."""
    sections = list(_sections(_EXAMPLE.read_text("utf-8"), descriptions))
    parts = [_INTRO]
    for section in sections:
        title, _, more = section.title.replace(",", ":", 1).partition(":")
        about = f"{more.strip()[:1].upper()}{more.strip()[1:]}." if more else ""
        parts += [f"## {title}", about, table(["variable", "default", "meaning"], section.rows)]
    return page("Settings", *parts)


def _sections(text: str, descriptions: Descriptions) -> Iterator[_Section]:
    section = _Section("")
    comment: list[str] = []
    for line in text.splitlines()[2:]:
        if line.startswith("# "):
            comment.append(line[2:])
        elif not line.strip():
            if comment:
                if section.rows:
                    yield section
                section = _Section(one_line(" ".join(comment)))
            comment = []
        else:
            name = line.rstrip("=")
            meaning = descriptions.of(f"env.example: {name}", " ".join(comment))
            section.rows.append(_row(name, meaning))
            comment = []
    yield section


def _row(name: str, meaning: str) -> list[str]:
    info = _field_of(name)
    default = _default(name, info)
    meaning = meaning.removesuffix(f"({default})").strip()
    return [
        code(name),
        code(default) or "none",
        f"{_sentence(meaning)}{_values(info, meaning) if info else ''}",
    ]


def _sentence(meaning: str) -> str:
    """The meaning; a value that it begins with is code."""
    value, colon, rest = meaning.partition(":")
    if colon and value in {"true", "false"}:
        return f"{code(value)}:{rest}"
    return meaning[:1].upper() + meaning[1:]


def _field_of(name: str) -> FieldInfo | None:
    fields = Settings.model_fields
    return fields.get(name.removeprefix("FLOW_").lower()) or fields.get(name.lower())


def _default(name: str, info: FieldInfo | None) -> str | None:
    if info is None:
        return next((v.base_url for v in VENDORS.values() if v.base_url_variable == name), None)
    if name == "FLOW_DATA_DIR":
        return "~/.local/share/flow"
    default = info.default
    if hasattr(default, "get_secret_value"):
        default = default.get_secret_value()
    if default is None or default is PydanticUndefined or default == ():
        return None
    if isinstance(default, float) and default.is_integer():
        default = int(default)
    return str(default).lower() if isinstance(default, bool) else str(default)


def _values(info: FieldInfo, meaning: str) -> str:
    """What a variable may be set to, where its meaning does not say it."""
    if get_origin(info.annotation) is Literal:
        values = [str(value) for value in get_args(info.annotation)]
        unsaid = [value for value in values if not re.search(rf"\b{value}\b", meaning)]
        return f" ({' or '.join(values)})" if unsaid else ""
    found: dict[str, Any] = {}
    for one in info.metadata:
        found |= {name: getattr(one, name) for name in ("ge", "gt", "le") if hasattr(one, name)}
    if "le" not in found or _plain(found["le"]) in meaning:
        return ""
    least = _plain(found["ge"]) if "ge" in found else f"more than {_plain(found['gt'])}"
    return f" ({least} to {_plain(found['le'])})"


def _plain(number: float) -> str:
    return re.sub(r"\.0$", "", str(number))
