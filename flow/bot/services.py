"""The services of one call, each with its meter on it: none works uncounted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
from pipecat.frames.frames import (
    Frame,
    FunctionCallsStartedFrame,
    LLMTextFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
)
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.ai_service import AIService
from pipecat.services.llm_service import LLMService
from pipecat.services.stt_service import STTService
from pipecat.services.tts_service import TTSService

from flow.bot.usage_metrics import UsageMetricsProcessor
from flow.bot.vendors import VENDORS
from flow.bot.vendors.spec import Build, Choice, Vendor
from flow.domain.calls.bot_part import BotPart
from flow.domain.usage.events import CostControl, Kind, Owner, UsageEvent
from flow.errors import ConfigurationError
from flow.metering.evidence import Opening
from flow.metering.meter import Meter, Service
from flow.metering.request import Recording
from flow.metering.taps.http import MeteredTransport, Shape
from flow.metering.taps.socket import SocketTap
from flow.vendors.model_endpoint import Endpoint

_KINDS = ((LLMService, Kind.LLM), (STTService, Kind.STT), (TTSService, Kind.TTS))
_OUTPUT = (LLMTextFrame, FunctionCallsStartedFrame, TranscriptionFrame, TTSAudioRawFrame)

Contents = dict[UUID, tuple[list[object], str]]
"""What a language model was told and what it answered, by the id of the event."""


class CallServices:
    """Builds the services of one call, and meters those that somebody else has built.

    A service is either tapped on its wire, or counted from its usage frames by the
    `usage_processor`, which stands after the last service. One that neither sees is refused.

    Args:
        endpoints: where each vendor is, by its name.
        control: what is done about the call's cost at the moment.
        shape: changes what a language model is asked, for save mode.
        model: the model of a vendor to use in place of another, for sessions, which keep theirs.
        drain: see `MeteredTransport`.
        contents: receives the content of each generation, where capturing it is on.
        vendors: those that can be built from.
    """

    def __init__(
        self,
        owner: Owner,
        recorder: Recording,
        endpoints: Mapping[str, Endpoint],
        *,
        control: Callable[[], CostControl] = CostControl,
        shape: Shape | None = None,
        model: Callable[[str, str], str] = lambda _, asked_for: asked_for,
        drain: bool = False,
        contents: Contents | None = None,
        vendors: Mapping[str, Vendor] = VENDORS,
    ) -> None:
        self._owner = owner
        self._recorder = recorder
        self._endpoints = endpoints
        self._control = control
        self._shape = shape
        self._model = model
        self._drain = drain
        self._contents = contents
        self._vendors = vendors
        self._meters: dict[str, Meter] = {}
        self._meters_by_frames: dict[str, Meter] = {}
        self._taps: list[MeteredTransport] = []
        self._sockets: list[SocketTap] = []
        self._hearing: FrameProcessor | None = None
        self._metered: set[FrameProcessor] = set()
        self._worked: set[str] = set()
        self.usage_processor = UsageMetricsProcessor(self._meters_by_frames, name="usage")

    def build(
        self, part: BotPart, choice: Choice, tools: Sequence[FunctionSchema] = ()
    ) -> FrameProcessor:
        """The service of a vendor; it is called by its part in the pipeline.

        A second one of a part has a number to its name. ``tools`` are for one with a session.

        Raises:
            ConfigurationError: there is no such vendor or service, or its key or packages are
                missing.
        """
        vendor = self._vendor(choice.provider)
        spec = vendor.service(part, choice)
        if spec is None:
            raise ConfigurationError(
                f"{vendor.name!r} has no {part.value} service for {choice.model!r}."
            )
        vendor.require_extra()
        asked_for = choice.model
        if part is BotPart.REALTIME:
            choice = replace(choice, model=self._model(choice.provider, asked_for))
        endpoint = self._endpoints[choice.provider]
        meter = self._meter_for(part.kind, choice, endpoint)
        transport = endpoint.transport(self._owner, self._control)
        is_llm = part is BotPart.LLM
        if spec.http_wire is not None:
            transport = MeteredTransport(
                transport,
                meter,
                spec.http_wire(),
                shape=self._shape if is_llm else None,
                drain=self._drain and is_llm,
            )
            self._taps.append(transport)
        socket = None
        if spec.socket_wire is not None:
            socket = SocketTap(meter, spec.socket_wire, asked_for=asked_for)
            self._sockets.append(socket)
        service = spec.make(Build(choice, endpoint, transport, socket, self._name(part), tools))
        if part in (BotPart.STT, BotPart.REALTIME):
            self._hearing = self._hearing or service
        self._add(service, meter, by_frames=spec.by_frames)
        return service

    def _vendor(self, name: str) -> Vendor:
        vendor = self._vendors.get(name)
        if vendor is None:
            raise ConfigurationError(f"{name!r} is not one of {', '.join(sorted(self._vendors))}.")
        if name not in self._endpoints:
            hint = f"For {name!r} set {vendor.needed}."
            raise ConfigurationError(f"{name!r} is not set up here.", hint=hint)
        return vendor

    def _name(self, part: BotPart) -> str:
        names = (part.value, *(f"{part.value}_{n}" for n in range(2, len(self._meters) + 2)))
        return next(name for name in names if name not in self._meters)

    def _meter_for(self, kind: Kind, choice: Choice, endpoint: Endpoint) -> Meter:
        captured = kind is Kind.LLM and endpoint.gateway_captures
        return Meter(
            Service(kind, choice.provider, choice.model, capture=not captured),
            self._owner,
            self._recorder,
            control=self._control,
            on_closed=self._keep_content,
        )

    def adopt(self, processors: Iterable[FrameProcessor]) -> None:
        """Meter the services among these that somebody else has built: by their frames.

        Raises:
            ConfigurationError: a service reports no usage in frames, so nothing would meter it, or
                it has the name of another, so its usage could be either's.
        """
        for service in all_processors(processors):
            if not isinstance(service, AIService) or service in self._metered:
                continue
            if service.name in self._meters:
                raise ConfigurationError(
                    f"Two services are called {service.name!r}, so their usage could not be told"
                    " apart: give each a name of its own."
                )
            kind = next((kind for base, kind in _KINDS if isinstance(service, base)), None)
            if kind is None or not service.can_generate_metrics():
                raise ConfigurationError(
                    f"Nothing meters {type(service).__name__}: it has no tap, and reports no usage"
                    " in frames."
                )
            model = getattr(getattr(service, "_settings", None), "model", None)
            known = Service(kind, vendor_of(service), str(model or "unknown"))
            meter = Meter(known, self._owner, self._recorder, control=self._control)
            self._add(service, meter, by_frames=True)

    @property
    def all_metered(self) -> tuple[Service, ...]:
        """What services the call has."""
        return tuple(meter.service for meter in self._meters.values())

    def meter_of(self, name: str) -> Meter | None:
        """The meter of a service of this call, by its name in the pipeline."""
        return self._meters.get(name)

    @property
    def hearing(self) -> FrameProcessor | None:
        """The first service built that hears the caller, if there is one yet."""
        return self._hearing

    def kind_of(self, name: str) -> Kind | None:
        """What kind of service is called so in the pipeline; ``None``: none is."""
        meter = self._meters.get(name)
        return None if meter is None else meter.service.kind

    async def close(self) -> None:
        """The call is over: count what is under way, and say which services nothing has counted."""
        for tap in self._taps:
            await tap.finish()
        for socket in self._sockets:
            socket.finish()
        for name, meter in self._meters.items():
            meter.close()
            if name in self._worked and not meter.recorded:
                meter.report_unmetered()

    def _add(self, service: FrameProcessor, meter: Meter, *, by_frames: bool) -> None:
        self._metered.add(service)
        self._meters[service.name] = meter
        if by_frames:
            self._meters_by_frames[service.name] = meter
            if isinstance(service, LLMService):
                _note_inferences(service, meter)
        worked = self._worked

        async def pushed(_: FrameProcessor, frame: Frame) -> None:
            if isinstance(frame, _OUTPUT):
                worked.add(service.name)
                # Not while Pipecat goes through the handlers: it would skip the next one.
                asyncio.get_running_loop().call_soon(
                    service.remove_event_handler, "on_after_push_frame", pushed
                )

        service.add_event_handler("on_after_push_frame", pushed)

    def _keep_content(self, event: UsageEvent, opening: Opening, text: str) -> None:
        if self._contents is not None and event.kind is Kind.LLM:
            self._contents[event.id] = (list(opening.content or ()), text)


def _note_inferences(service: LLMService, meter: Meter) -> None:
    """Put each inference outside the pipeline on record, of which no frame tells."""
    infer = service.run_inference

    async def noted(*args: Any, **options: Any) -> str | None:
        meter.report_unmetered()
        return await infer(*args, **options)

    service.run_inference = noted  # type: ignore[method-assign]


def all_processors(processors: Iterable[FrameProcessor]) -> Iterator[FrameProcessor]:
    """These processors and all within them, such as those of parallel pipelines."""
    for processor in processors:
        yield processor
        yield from all_processors(processor.processors)


def vendor_of(service: object) -> str:
    """The vendor of a Pipecat service: the package of Pipecat's that its class comes from.

    The class's name does not tell (``CartesiaTurnsSTTService``), and a class of somebody's own
    has a base from Pipecat's packages.
    """
    for kind in type(service).__mro__:
        match kind.__module__.split("."):
            case ["pipecat", "services", vendor, _, *_]:
                return vendor
    return type(service).__name__.lower()
