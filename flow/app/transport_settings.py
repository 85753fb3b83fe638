"""The settings of transports, as their specs name them."""

from __future__ import annotations

from collections.abc import Iterable

from flow.domain.calls.transport_spec import TransportSpec
from flow.errors import ConfigurationError
from flow.settings import Settings


def set_up(spec: TransportSpec, settings: Settings) -> dict[str, str] | None:
    """The values of a transport's settings and options by variable; ``None``: it is not set up."""
    values = settings.variables((*spec.settings, *spec.options))
    return values if set(spec.settings) <= set(values) else None


def check_transports(settings: Settings) -> None:
    """Refuse settings that go together of which some are missing.

    Raises:
        ConfigurationError: one sentence a transport.
    """
    # Pipecat takes seconds to import.
    from flow.bot.transports import TRANSPORTS

    if problems := [*_contradictions(settings, TRANSPORTS.values())]:
        raise ConfigurationError("\n".join(problems))


def _contradictions(settings: Settings, specs: Iterable[TransportSpec]) -> Iterable[str]:
    for spec in specs:
        if (problem := spec.contradiction(settings.variables(spec.settings))) is not None:
            yield problem
