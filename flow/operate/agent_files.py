"""Agents in files: YAML or JSON, with the fields of ``POST /api/agents``."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any

import yaml

from flow.errors import InvalidInput

MAX_BYTES = 1_048_576


class _Loader(yaml.SafeLoader):
    """YAML with the plain values of JSON alone, as YAML 1.2 has them: ``on``, ``no`` and dates are
    text. A name that is in an object twice is refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The object; raises `yaml.YAMLError` for a name that is there twice."""
        names = [self.construct_object(name) for name, _ in node.value]
        twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
        if twice is not None:
            raise yaml.MarkedYAMLError(None, None, f"{twice!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp"}
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|false)$"), list("tf"))


class _Dumper(yaml.SafeDumper):
    """YAML in which a text of several lines is written as such."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    lines = text.split("\n")
    plain = all(line.isprintable() for line in lines)
    style = ("|" if len(lines) > 1 else None) if plain else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def read(path: Path) -> dict[str, Any]:
    """The object in a file, YAML unless its name ends in ``.json``.

    Raises:
        InvalidInput: the file cannot be read, or holds no object.
    """
    try:
        text = path.read_text("utf-8")
        if len(text) > MAX_BYTES:
            raise InvalidInput(f"{path} is larger than {MAX_BYTES} bytes: it is no agent.")
        found = json.loads(text) if path.suffix == ".json" else yaml.load(text, _Loader)  # noqa: S506
        json.dumps(found, allow_nan=False)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{path} is not UTF-8.") from None
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise InvalidInput(f"{path} is no YAML or JSON: {_one_line(error)}.") from None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise InvalidInput(f"{path} holds no agent: its fields are those of POST /api/agents.")
    return found


def text_of(definition: dict[str, Any]) -> str:
    """A definition as YAML that `read` reads as the same."""
    return yaml.dump(definition, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=100)


def difference(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The lines that differ in two definitions as YAML, in the order of their names."""
    old, new = (text_of(_in_order(one)).splitlines() if one else [] for one in (before, after))
    return [*difflib.unified_diff(old, new, lineterm="", n=2)][2:]


def _in_order(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _in_order(value[name]) for name in sorted(value)}
    return [_in_order(item) for item in value] if isinstance(value, list) else value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
