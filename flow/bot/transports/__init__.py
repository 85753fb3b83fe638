"""The transports that a call can come over: a module each, found here by its ``TRANSPORT``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType
from typing import TypeVar

from flow.bot.transports.spec import BotTransportSpec

Spec = TypeVar("Spec", bound=BotTransportSpec)


def _found() -> Mapping[str, BotTransportSpec]:
    modules = (import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__))
    specs = [module.TRANSPORT for module in modules if hasattr(module, "TRANSPORT")]
    return MappingProxyType({spec.name: spec for spec in specs})


TRANSPORTS = _found()
"""Every transport by its name."""


def of_kind(kind: type[Spec], specs: Mapping[str, BotTransportSpec]) -> dict[str, Spec]:
    """The transports over which a call begins in one way, by their names."""
    return {name: spec for name, spec in specs.items() if isinstance(spec, kind)}
