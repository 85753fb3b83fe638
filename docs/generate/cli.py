"""Every command, from typer's own description of it."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any

import typer

from flow.cli import cli
from generate.markdown import Descriptions, code, page, paragraphs, table

_INTRO = """\
`make` puts the command at `.venv/bin/flow`; in the image it is the entry point. Commands read the
same [environment](settings.md) as the service. One that cannot do what it was asked says why in a
sentence on standard error and exits with 2. `--json` prints one JSON document on standard output,
for programs."""


def cli_page(descriptions: Descriptions) -> str:
    """The reference of the command line."""
    group = typer.main.get_command(cli)
    return page("Command line", _INTRO, *_commands(group, "flow", descriptions))


def _commands(command: Any, path: str, descriptions: Descriptions) -> Iterator[str]:
    if not hasattr(command, "commands"):
        yield from _command(command, path, descriptions)
        return
    for name, child in command.commands.items():
        yield from _commands(child, f"{path} {name}", descriptions)


def _command(command: Any, path: str, descriptions: Descriptions) -> Iterator[str]:
    yield f"## {path}"
    descriptions.of(path, command.help)
    yield paragraphs(command.help or "")
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    usage = " ".join([path, *(_argument(one) for one in arguments)])
    yield f"```text\n{usage} [OPTIONS]\n```"
    if command.params:
        rows = [_row(one, path, descriptions) for one in command.params]
        yield table(["argument or option", "default", "meaning"], rows)


def _argument(parameter: Any) -> str:
    name = parameter.name.upper()
    return str(name) if parameter.required else f"[{name}]"


def _row(parameter: Any, path: str, descriptions: Descriptions) -> list[str]:
    is_option = parameter.param_type_name == "option"
    names = [*parameter.opts, *parameter.secondary_opts] if is_option else [_argument(parameter)]
    meaning = descriptions.of(f"{path} {names[0]}", getattr(parameter, "help", None))
    return [
        ", ".join(code(f"{name}{_value(parameter)}") for name in names),
        "required" if parameter.required else _default(parameter),
        meaning,
    ]


def _value(parameter: Any) -> str:
    if parameter.param_type_name != "option" or parameter.is_flag:
        return ""
    kind = parameter.type_descriptor.annotation
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " " + "|".join(str(choice.value) for choice in kind)
    return " N" if kind is int else " TEXT"


def _default(parameter: Any) -> str:
    value = parameter.default
    if value is None or value is False or value == () or value == [] or callable(value):
        return ""
    if value is True:
        return code(parameter.opts[0])
    return code(getattr(value, "value", value))
