"""What a vendor's file says: how each of its services is made, and how it is metered."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import httpx2
from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.processors.frame_processor import FrameProcessor

from flow.domain.calls.bot_part import BotPart
from flow.errors import ConfigurationError
from flow.kit.installed import is_installed, requirement
from flow.metering.taps.socket import SocketTap
from flow.metering.vendor_apis import NO_APIS, VendorApis
from flow.metering.wires.reader import HttpWire
from flow.metering.wires.socket import SocketWire
from flow.vendors.key_requests import LIST_MODELS, KeyRequest
from flow.vendors.model_endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Choice:
    """One service a call asked for.

    ``options`` are the rest of what the join says of it; ``api`` is the one of its vendor's APIs
    for language models that is meant.
    """

    provider: str
    model: str
    options: Mapping[str, Any]
    api: str = "chat"

    @property
    def given(self) -> dict[str, Any]:
        """The options that have a value."""
        return {name: value for name, value in self.options.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Build:
    """What a service of one call is made with.

    ``transport`` is the metered way to ``endpoint``, for a client built on httpx2; ``socket``
    meters the WebSockets that it opens, where `ServiceSpec.socket_wire` says how to read them.
    ``name`` is what the service is to be called in its pipeline. ``tools`` are those of the bot,
    for a session that has them from its beginning; elsewhere they come with the context.
    """

    choice: Choice
    endpoint: Endpoint
    transport: httpx2.AsyncBaseTransport
    socket: SocketTap | None
    name: str
    tools: Sequence[FunctionSchema] = ()


def any_choice(_: Choice) -> bool:
    """Serves whatever is chosen."""
    return True


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """One service of a vendor.

    It is metered on every wire that it uses: HTTP, WebSockets or both. One that uses neither in a
    way that can be read is counted by Pipecat's usage frames, which is less exact.

    Args:
        part: what it does in a bot.
        make: makes the Pipecat service of a call. It imports Pipecat's module, and with it the
            vendor's SDK, only then.
        http_wire: makes the reader of its HTTP requests, one a call.
        socket_wire: makes the reader of its WebSockets, one a connection.
        by_frames: it is counted by usage frames alone.
        serves: whether it is the one for a choice, where a vendor has several of one part.
        api: what choices call the API that it uses.
        tells_turns: whether it tells by itself when the caller has finished a turn.
        voices: the voices that it has; ``None`` where they are the vendor's business.
    """

    part: BotPart
    make: Callable[[Build], FrameProcessor]
    http_wire: Callable[[], HttpWire] | None = None
    socket_wire: SocketWire | None = None
    by_frames: bool = False
    serves: Callable[[Choice], bool] = any_choice
    api: str = "chat"
    tells_turns: bool = False
    voices: Callable[[], Collection[str]] | None = None

    @property
    def is_metered(self) -> bool:
        """Whether something counts what the service does."""
        has_wire = self.http_wire is not None or self.socket_wire is not None
        return has_wire is not self.by_frames


@dataclass(frozen=True, slots=True)
class Vendor:
    """A vendor and its services.

    Args:
        name: what joins, products, prices and the ledger call it.
        services: the first of a part that serves a choice is taken.
        key: the environment variable of its API key.
        base_url: where its API is; ``None`` where only the environment says so.
        apis: what of its API the LLM gateway passes requests on to.
        key_request: a cheap request that tells whether a key is good.
        own_base_url_variable: the environment variable that puts its API elsewhere, where the
            vendor has a name of its own for it.
        extra: the extra of Flow's package that its services need; ``None`` where nothing is needed.
        package: what that installs, by the name of its import, where it is not called the same.
    """

    name: str
    key: str
    base_url: str | None
    services: tuple[ServiceSpec, ...] = ()
    extra: str | None = None
    own_base_url_variable: str | None = None
    package: str | None = None
    apis: VendorApis = NO_APIS
    key_request: KeyRequest = LIST_MODELS

    @property
    def parts(self) -> frozenset[BotPart]:
        """The parts of a bot that it has a service for."""
        return frozenset(spec.part for spec in self.services)

    def service(self, part: BotPart, choice: Choice) -> ServiceSpec | None:
        """The service that a choice means, or ``None``."""
        able = (
            spec
            for spec in self.services
            if (spec.part, spec.api) == (part, choice.api) and spec.serves(choice)
        )
        return next(able, None)

    @property
    def missing(self) -> str | None:
        """What is not installed here and has to be, in words, or ``None``."""
        if self.extra is None or is_installed(self.package or self.extra):
            return None
        return f"install {requirement(self.extra)}"

    def require_extra(self) -> None:
        """Refuse to make a service without the packages that it needs.

        Raises:
            ConfigurationError: names the extra.
        """
        if self.missing is not None:
            hint = f"For {self.name!r} {self.missing}."
            raise ConfigurationError(f"{self.name!r} is not set up here.", hint=hint)

    @property
    def base_url_variable(self) -> str:
        """The environment variable that puts its API elsewhere."""
        return self.own_base_url_variable or self.key.replace("_API_KEY", "_BASE_URL")

    @property
    def needed(self) -> str:
        """The environment variables without which it is not offered, in words."""
        is_anywhere = self.base_url is None and self.own_base_url_variable is not None
        return f"{self.key} or {self.base_url_variable}" if is_anywhere else self.key


def pipecat_class(path: str) -> Any:
    """The class at ``module:name`` below ``pipecat.services``, imported now."""
    module, _, name = path.partition(":")
    return getattr(import_module(f"pipecat.services.{module}"), name)


def spoken_language(choice: Choice) -> dict[str, Any]:
    """The setting ``language`` of Pipecat's speech services, as the join has it.

    Where it has none, each service's own default stands: not all have an automatic language.
    """
    from pipecat.transcriptions.language import Language

    language = choice.options.get("language")
    return {"language": Language(language)} if language else {}
