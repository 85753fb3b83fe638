"""What a product file may say of models: defaults, patterns, and what save mode uses instead."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

from flow.domain.products.product import ModelName, Models, Saving
from flow.domain.products.product_fields import (
    Check,
    Place,
    fields,
    flag,
    listed,
    shown,
    text,
    whole,
)

# The vendors that each part of a bot may come from.
Parts = Mapping[str, frozenset[str]]

_SOLD = {"llm": "language models", "stt": "transcription", "tts": "voices"}
_WILD = "*?["


def models(part: str, vendors: Parts) -> Check:
    """The table of a part's models."""
    known = vendors[part]
    checks: dict[str, Check] = {
        "default": lambda value, place: _model(value, place, part, known),
        "allowed": lambda value, place: _patterns(value, place, part, known),
    }
    if part == "tts":
        checks["voice"] = text(128)

    def check(value: Any, place: Place) -> Models:
        read = Models(**fields(value, place, checks))
        if (default := read.default) and not read.allows(default.provider, default.model):
            place.at("default").note(f"'{default}' is not among what is allowed")
        return read

    return check


def saving(vendors: Parts) -> Check:
    """The table of what save mode does."""
    checks: dict[str, Check] = {
        "models": lambda value, place: _pairs(value, place, vendors["llm"]),
        "max_tokens": whole(1, 32_768),
        "instruction": text(32_768),
        "prompt_cache": flag,
    }
    return lambda value, place: Saving(**fields(value, place, checks))


def _model(value: Any, place: Place, part: str, known: frozenset[str]) -> ModelName | None:
    """One model by its exact name."""
    try:
        name = ModelName.parse(value) if isinstance(value, str) else None
    except ValueError as error:
        place.note(str(error))
        return None
    if name is None:
        place.note(f"must be text such as openai/gpt-4.1, not {shown(value)}")
    elif any(c in value for c in _WILD):
        place.note(f"{value!r} is a pattern, and one model is needed here")
    elif name.provider not in known:
        place.note(_no_vendor(name.provider, part, known))
    else:
        return name
    return None


def _patterns(value: Any, place: Place, part: str, known: frozenset[str]) -> tuple[str, ...] | None:
    """Patterns of models; ``None`` if one is wrong, so that nothing is judged by the rest."""
    patterns = listed(value, place)
    if value == []:
        place.note("would allow nothing: leave it out to allow any model")
    wrong = False
    for index, pattern in enumerate(patterns):
        if problem := _pattern_problem(pattern, part, known):
            place.at(index).note(problem)
            wrong = True
    return None if wrong or not patterns else tuple(patterns)


def _pattern_problem(pattern: Any, part: str, known: frozenset[str]) -> str | None:
    if not isinstance(pattern, str) or not pattern.isprintable() or " " in pattern:
        return f"must hold patterns such as openai/*, not {shown(pattern)}"
    vendor, _, model = pattern.lower().partition("/")
    if not any(fnmatchcase(one, vendor) for one in known):
        return _no_vendor(vendor, part, known)
    # A lone "*" also stands for the slash and what follows it.
    if not model and not vendor.endswith("*"):
        return f"{pattern!r} names no model: write {vendor}/* for all of them"
    return None


def _no_vendor(vendor: str, part: str, known: frozenset[str]) -> str:
    return f"{vendor!r} is not a vendor of {_SOLD[part]}: use {', '.join(sorted(known))}"


def _pairs(value: Any, place: Place, known: frozenset[str]) -> Mapping[str, str] | None:
    """Which model stands in for which, by full names."""
    if not isinstance(value, Mapping):
        place.note(f"must be a table of a model for each model, not {shown(value)}")
        return None
    pairs: dict[str, str] = {}
    for costly, cheap in value.items():
        here = place.at(costly)
        old, new = _model(costly, here, "llm", known), _model(cheap, here, "llm", known)
        if old is not None and new is not None:
            if problem := _pair_problem(old, new, pairs):
                here.note(problem)
            else:
                pairs[str(old).lower()] = str(new)
    return MappingProxyType(pairs)


def _pair_problem(old: ModelName, new: ModelName, pairs: Mapping[str, str]) -> str | None:
    costly, cheap = str(old).lower(), str(new).lower()
    if old.provider != new.provider:
        return f"'{new}' is another vendor's, and a running call keeps its vendor"
    if costly == cheap:
        return "nothing is saved by the same model"
    if costly in pairs:
        return f"'{old}' is there twice"
    # Two that replace each other cannot both be the cheaper one, however long the way round is.
    while cheap in pairs:
        cheap = pairs[cheap].lower()
        if cheap == costly:
            return f"'{new}' is itself replaced, in the end by '{old}'"
    return None
