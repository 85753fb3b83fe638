"""RTVI with the caller's client: what it may send, and what it is told.

Pipecat's own processor speaks the protocol. It takes whatever it knows of anybody, text that is in
no transcript and results of functions among it, and tells vendors, models and token counts; so
here everything passes a list, in both directions.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog
from pipecat.frames.frames import Frame, InputTransportMessageFrame
from pipecat.pipeline.capabilities import BotCapabilities
from pipecat.processors.frame_processor import FrameDirection
from pipecat.processors.frameworks.rtvi import RTVIObserverParams, RTVIProcessor, models
from pipecat.processors.frameworks.rtvi.frames import RTVISendTextFrame
from pipecat.processors.frameworks.rtvi.observer import RTVIFunctionCallReportLevel
from pydantic import BaseModel, ValidationError

from flow.domain.calls.latency import TurnLatency
from flow.domain.calls.rtvi import Rtvi
from flow.domain.usage.units import Kind

log = structlog.get_logger(__name__)

CLIENT_READY = "on_client_ready"
"""The client has connected and listens. Handlers get the processor."""
HANG_UP = "on_hang_up"
"""The client asks for the end of the call. Handlers get the processor."""
TEXT = "on_text"
"""The client has sent a turn as text. Handlers get the processor and the text."""

MAX_TEXT_CHARS = 4_000
MAX_ID_CHARS = 128
MOST_MESSAGES = (20, 1.0)
MOST_TEXTS = (20, 60.0)
"""At most so many within so many seconds: each text is a request to a model, and is paid for."""

_NEEDS = {"send-text": "text", "client-message": "messages"}
"""What a join must allow for each type of message that it can allow."""
_ALWAYS = frozenset({"client-ready", "disconnect-bot"})
_BODIES: dict[str, type[BaseModel]] = {
    "send-text": models.SendTextData,
    "client-message": models.RawClientMessageData,
}
_LATENCIES = ("ttfb", "processing")
_FAILED = "Something went wrong on the bot's side."
# Nothing of these says who serves the call, or what it uses.
_SHOWN = (
    models.BotReady,
    models.ErrorResponse,
    models.ServerMessage,
    models.ServerResponse,
    models.UserStartedSpeakingMessage,
    models.UserStoppedSpeakingMessage,
    models.UserMuteStartedMessage,
    models.UserMuteStoppedMessage,
    models.UserTranscriptionMessage,
    models.UserInputMessage,
    models.BotStartedSpeakingMessage,
    models.BotStoppedSpeakingMessage,
    models.BotInterruptedMessage,
    models.BotLLMStartedMessage,
    models.BotLLMStoppedMessage,
    models.BotLLMTextMessage,
    models.BotTranscriptionMessage,
    models.BotTTSStartedMessage,
    models.BotTTSStoppedMessage,
    models.BotTTSTextMessage,
    models.BotOutputMessage,
)


class _Rate:
    """At most ``most`` events within any ``secs`` seconds."""

    def __init__(self, most: int, secs: float, now: Callable[[], float]) -> None:
        self._secs = secs
        self._now = now
        self._taken: deque[float] = deque(maxlen=most)

    def take(self) -> bool:
        """Whether one more may be."""
        now, taken = self._now(), self._taken
        if len(taken) == taken.maxlen and now - taken[0] < self._secs:
            return False
        taken.append(now)
        return True


class CallerRtvi(RTVIProcessor):
    """Stands before a pipeline, between it and the caller's client.

    Of what is not allowed the client is told so, in an ``error-response``; of what comes too fast
    once a second.

    Args:
        allowed: what the join says.
        kind_of: what kind of service is called by a name in the pipeline.
        now: a clock, in seconds.
    """

    def __init__(
        self,
        allowed: Rtvi,
        kind_of: Callable[[str], Kind | None],
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name="rtvi")
        self._allowed = allowed
        self._kind_of = kind_of
        self._messages = _Rate(*MOST_MESSAGES, now)
        self._texts = _Rate(*MOST_TEXTS, now)
        self._warnings = _Rate(1, 1.0, now)
        self._register_event_handler(HANG_UP, sync=True)
        self._register_event_handler(TEXT, sync=True)

    @property
    def observing(self) -> RTVIObserverParams:
        """What Pipecat's observer of the pipeline makes messages of."""
        return RTVIObserverParams(
            metrics_enabled=self._allowed.metrics,
            user_llm_enabled=False,
            function_call_report_level={"*": RTVIFunctionCallReportLevel.DISABLED},
        )

    @property
    def capabilities(self) -> BotCapabilities:
        """What the client is told of the bot, beside what the pipeline shows."""
        return BotCapabilities(metrics=self._allowed.metrics)

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Take a message of the caller's if it is allowed, and other frames as Pipecat does."""
        if not isinstance(frame, InputTransportMessageFrame):
            await super().process_frame(frame, direction)
        elif not self._messages.take():
            await self._refuse_rest()
        elif (message := await self._read(frame.message)) is None:
            return
        elif message.type == "disconnect-bot":
            await self._call_event_handler(HANG_UP)
        else:
            await super().process_frame(
                InputTransportMessageFrame(message=message.model_dump()), direction
            )

    async def push_frame(
        self, frame: Frame, direction: FrameDirection = FrameDirection.DOWNSTREAM
    ) -> None:
        """Push a frame; the one that says that a text was taken is told to handlers first."""
        if isinstance(frame, RTVISendTextFrame):
            await self._call_event_handler(TEXT, frame.text)
        await super().push_frame(frame, direction)

    async def push_transport_message(self, model: BaseModel, exclude_none: bool = True) -> None:
        """Tell the client, if that is for a caller's eyes."""
        if (shown := self._shown(model)) is not None:
            await super().push_transport_message(shown, exclude_none)

    async def tell_latency(self, latency: TurnLatency) -> None:
        """Tell the client how long it waited for a reply, where the join asks for that."""
        if self._allowed.metrics:
            parts = {name: secs for name, secs in latency.parts.items() if secs}
            await self.send_server_message(
                {"type": "turn-latency", "secs": latency.total_secs, "parts": parts}
            )

    async def _read(self, given: Any) -> models.Message | None:
        """The message, whose data are of the right form; ``None`` where it was refused."""
        try:
            message = models.Message.model_validate(given)
        except ValidationError:
            await self._tell_error("That is no RTVI message.")
            return None
        if len(message.id) > MAX_ID_CHARS:
            await self._tell_error(f"The id of a message is longer than {MAX_ID_CHARS} characters.")
        elif (problem := self._problem(message)) is not None:
            await self._refuse(message, problem)
        else:
            return message
        return None

    def _problem(self, message: models.Message) -> str | None:
        """Why a message is not taken, for the caller."""
        kind = message.type[:64]
        if kind not in _ALWAYS and kind not in _NEEDS:
            return f"'{kind}' is not taken from callers."
        if (needed := _NEEDS.get(kind)) is None:
            return None
        if needed not in self._allowed.allow:
            return f"'{kind}' is not allowed in this call."
        try:
            _BODIES[kind].model_validate(message.data)
        except ValidationError:
            return f"The data of '{kind}' are not of its form."
        return self._text_problem(message.data or {}) if kind == "send-text" else None

    def _text_problem(self, data: dict[str, Any]) -> str | None:
        text = data["content"]
        if not text.strip() or "\0" in text:
            return "The text is empty, or has a NUL character."
        if len(text) > MAX_TEXT_CHARS:
            return f"The text is longer than {MAX_TEXT_CHARS} characters."
        return None if self._texts.take() else "That is too much text in a minute."

    async def _refuse(self, message: models.Message, why: str) -> None:
        log.info("caller_message_refused", type=message.type[:64])
        response = models.ErrorResponse(id=message.id, data=models.ErrorResponseData(error=why))
        await super().push_transport_message(response)

    async def _refuse_rest(self) -> None:
        if self._warnings.take():
            log.warning("caller_messages_dropped", reason="too many")
            await self._tell_error("That is too many messages in a second; some were dropped.")

    async def _tell_error(self, error: str) -> None:
        told = models.Error(data=models.ErrorData(error=error, fatal=False))
        await super().push_transport_message(told)

    def _shown(self, model: BaseModel) -> BaseModel | None:
        if isinstance(model, models.Error):
            # Its own words are the vendor's.
            return models.Error(data=models.ErrorData(error=_FAILED, fatal=model.data.fatal))
        if isinstance(model, models.MetricsMessage):
            return self._latencies(model)
        return model if isinstance(model, _SHOWN) else None

    def _latencies(self, message: models.MetricsMessage) -> models.MetricsMessage | None:
        """Its latencies, each by the kind of the service."""
        if not self._allowed.metrics:
            return None
        shown = {}
        for name in _LATENCIES:
            values = [
                {"processor": kind.value, "value": one["value"]}
                for one in message.data.get(name, ())
                if (kind := self._kind_of(one["processor"])) is not None
            ]
            if values:
                shown[name] = values
        return models.MetricsMessage(data=shown) if shown else None
