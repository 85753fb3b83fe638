"""What a vendor's file says: how each of its services is made, and how it is metered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import httpx2
from pipecat.processors.frame_processor import FrameProcessor

from flow.domain.usage.units import Kind
from flow.errors import ConfigurationError
from flow.metering.wires.reader import HttpWire
from flow.vendors.model_endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Choice:
    """One service a call asked for. ``options`` are the rest of what the join says of it."""

    provider: str
    model: str
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Build:
    """What a service of one call is made with.

    ``transport`` is the metered way to ``endpoint``, for a client built on httpx2; ``name`` is
    what the service is to be called in its pipeline.
    """

    choice: Choice
    endpoint: Endpoint
    transport: httpx2.AsyncBaseTransport
    name: str


class Tap(Enum):
    """Where a service's work is seen."""

    HTTP = "in the requests of its HTTP client, which goes through `Build.transport`"
    FRAMES = "in Pipecat's usage frames, which count less exactly: only where no wire can be tapped"


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """One service of a vendor.

    Args:
        make: makes the Pipecat service of a call. It imports Pipecat's module, and with it the
            vendor's SDK, only then.
        tap: where its work is seen.
        wire: makes the reader of its protocol, one a call; not for `Tap.FRAMES`.
    """

    make: Callable[[Build], FrameProcessor]
    tap: Tap | None = None
    wire: Callable[[], HttpWire] | None = None

    @property
    def is_metered(self) -> bool:
        """Whether something counts what the service does."""
        return self.tap is Tap.FRAMES or (self.tap is Tap.HTTP and self.wire is not None)


@dataclass(frozen=True, slots=True)
class Vendor:
    """A vendor and its services.

    Args:
        name: what joins, products, prices and the ledger call it.
        key: the environment variable of its API key.
        base_url: where its API is; ``None`` where that is a setting of its own.
        extra: the extra of Flow's package that its services need; ``None`` where nothing is needed.
        package: what that installs, by the name of its import, where it is not called the same.
    """

    name: str
    key: str
    base_url: str | None
    services: Mapping[Kind, ServiceSpec] = field(default_factory=dict)
    extra: str | None = None
    package: str | None = None

    @property
    def missing(self) -> str | None:
        """What is not installed here and has to be, in words, or ``None``."""
        if self.extra is None or _is_installed(self.package or self.extra):
            return None
        return f"install flow[{self.extra}]"

    def require_extra(self) -> None:
        """Refuse to make a service without the packages that it needs.

        Raises:
            ConfigurationError: names the extra.
        """
        if self.missing is not None:
            raise ConfigurationError(f"{self.name!r} needs a package: {self.missing}.")

    @property
    def base_url_variable(self) -> str:
        """The environment variable that puts its API elsewhere."""
        return self.key.replace("_API_KEY", "_BASE_URL")


def pipecat_class(path: str) -> Any:
    """The class at ``module:name`` below ``pipecat.services``, imported now."""
    module, _, name = path.partition(":")
    return getattr(import_module(f"pipecat.services.{module}"), name)


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # what it is in is missing
        return False
