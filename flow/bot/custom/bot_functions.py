"""The bots of one's own that a process has: found when it starts, by modules and entry points."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from flow.bot.custom.call import Call
from flow.bot.custom.handover import Given
from flow.errors import ConfigurationError

BotFunction = Callable[[Call], Awaitable[Given | None]]
"""A bot: it returns its pipeline, or awaits `Call.run` with it and returns nothing."""

GROUP = "flow.bots"
"""The group of entry points that packages register bots in: the name is the bot's."""

_Found = tuple[str, str, object]
"""A bot's name, where it was found, in words, and what should be its function."""


def find_bots(
    modules: Iterable[str], registered: Iterable[EntryPoint] | None = None
) -> Mapping[str, BotFunction]:
    """The bots by their names.

    A module is importable by its name, or is the path of a ``.py`` file. It has either ``BOTS``, a
    mapping from names to functions, or a function ``bot``, which is then called as the module.

    Args:
        registered: entry points; those of all installed packages, unless given.

    Raises:
        ConfigurationError: a module cannot be imported or has no bot, something that should be a
            bot is no async function, or two bots have one name.
    """
    points = entry_points(group=GROUP) if registered is None else registered
    found = [*(bot for module in modules for bot in _in_module(module)), *map(_registered, points)]
    bots: dict[str, BotFunction] = {}
    places: dict[str, str] = {}
    for name, where, function in found:
        if name in bots:
            raise ConfigurationError(f"Two bots are called {name!r}: {places[name]} and {where}.")
        bots[name], places[name] = _bot_function(where, function), where
    return MappingProxyType(bots)


def _in_module(name: str) -> Iterator[_Found]:
    where = f"FLOW_BOTS: {name}"
    module = _imported(where, lambda: _module_of(name))
    if isinstance(bots := getattr(module, "BOTS", None), Mapping) and bots:
        for bot, function in bots.items():
            yield str(bot), f"{where} (BOTS[{bot!r}])", function
    elif hasattr(module, "bot"):
        yield _short_name(name), f"{where} (bot)", module.bot
    else:
        raise ConfigurationError(
            f"{where} has no bot: give it an async function called bot, or a mapping BOTS from"
            " names to such functions."
        )


def _registered(point: EntryPoint) -> _Found:
    where = f"the entry point {point.name} = {point.value}"
    return point.name, where, _imported(where, point.load)


def _imported(where: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except (Exception, SystemExit) as error:
        raise ConfigurationError(
            f"{where} cannot be imported: {type(error).__name__}: {error}".rstrip(": .") + "."
        ) from error


def _module_of(name: str) -> ModuleType:
    if not name.endswith(".py"):
        return import_module(name)
    spec = spec_from_file_location(f"flow_bots_{_short_name(name)}", Path(name).resolve())
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None, "a .py file has a loader"
    module = module_from_spec(spec)
    # Dataclasses and pickling look a module up by its name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _short_name(name: str) -> str:
    return Path(name).stem if name.endswith(".py") else name.rpartition(".")[2]


def _bot_function(where: str, function: Any) -> BotFunction:
    if not inspect.iscoroutinefunction(function):
        raise ConfigurationError(f"{where} is no async function that takes a call.")
    checked: BotFunction = function
    return checked
