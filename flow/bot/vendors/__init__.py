"""The vendors a bot can be built from: a module each, found here by its ``VENDOR``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType

from flow.bot.vendors.spec import Vendor
from flow.domain.calls.bot_part import BotPart
from flow.errors import ConfigurationError


def _found() -> Mapping[str, Vendor]:
    modules = (import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__))
    vendors = [module.VENDOR for module in modules if hasattr(module, "VENDOR")]
    return MappingProxyType({vendor.name: vendor for vendor in vendors})


VENDORS = _found()
"""Every vendor by its name."""


def vendors_by_part(vendors: Mapping[str, Vendor] = VENDORS) -> dict[str, frozenset[str]]:
    """The names of the vendors that have a service for each part of a bot."""
    return {
        part.value: frozenset(name for name, vendor in vendors.items() if part in vendor.parts)
        for part in BotPart
    }


def require_meters(vendors: Mapping[str, Vendor] = VENDORS) -> None:
    """Refuse vendors with a service that nothing meters: its work would be free, without a word.

    Raises:
        ConfigurationError: names every such service and what its file lacks.
    """
    unmetered = [
        f"the {spec.part.value} service of {vendor.name}"
        for vendor in vendors.values()
        for spec in vendor.services
        if not spec.is_metered
    ]
    if unmetered:
        raise ConfigurationError(
            f"Nothing meters {' and '.join(unmetered)}: give it a wire in flow/bot/vendors, or"
            " by_frames where its wires cannot be tapped."
        )
