"""What a bot of one's own is given: the call, and what to build its pipeline from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from pipecat.frames.frames import Frame
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.transports.base_transport import BaseTransport

from flow.bot.custom.handover import Given, Handover
from flow.bot.pipeline import aggregator_pair, context_of
from flow.bot.service_choices import choice_of
from flow.bot.services import CallServices
from flow.bot.speech_detection import CallListening
from flow.bot.tools.memory import messages_of
from flow.bot.transports.spec import AudioFormat
from flow.bot.vendors.spec import Choice
from flow.domain.calls.bot_part import BotPart
from flow.domain.calls.ending import EndReason
from flow.domain.calls.join_request import JoinRequest, Realtime
from flow.domain.calls.thread import Turn
from flow.domain.usage.events import Owner
from flow.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Call:
    """One call, as its bot sees it.

    Services that it makes (`stt`, `llm`, `tts`, `service`) are metered by what goes over the wire,
    and follow save mode. Any other service of Pipecat's may stand in the pipeline too: it is
    counted by its usage frames, and refused where it has none.

    Attributes:
        join: what the customer asked for, with vendors, models and duration filled in.
        owner: whose call it is: the ids of its thread and key, team and product.
        transport: Pipecat's transport; its ``input()`` belongs in the pipeline, and its
            ``output()`` in that of a bot that speaks.
        audio: the sample rates that the pipeline has.
        said: the conversation so far, where the bot comes back to a call.
    """

    join: JoinRequest
    owner: Owner
    transport: BaseTransport
    audio: AudioFormat
    said: Sequence[Turn]
    _services: CallServices
    _listen: Callable[..., CallListening]
    _handover: Handover

    @property
    def thread_id(self) -> UUID | None:
        """The id of the call's thread."""
        return self.owner.workflow_thread_id

    @property
    def metadata(self) -> dict[str, Any]:
        """What the customer's program said of the call: any JSON object."""
        return self.join.metadata

    def stt(
        self, provider: str | None = None, model: str | None = None, **options: Any
    ) -> FrameProcessor:
        """A service that hears the caller: the join's own, unless told otherwise.

        Raises:
            ConfigurationError: as for `service`.
        """
        return self._service(BotPart.STT, provider, model, options)

    def llm(
        self, provider: str | None = None, model: str | None = None, **options: Any
    ) -> FrameProcessor:
        """A language model: the join's own, unless told otherwise. ``options`` are such as
        ``system_instruction``, ``temperature`` and ``max_tokens``.

        Raises:
            ConfigurationError: as for `service`.
        """
        return self._service(BotPart.LLM, provider, model, options)

    def tts(
        self, provider: str | None = None, model: str | None = None, **options: Any
    ) -> FrameProcessor:
        """A voice: the join's own, unless told otherwise. ``options`` are such as ``voice``.

        Raises:
            ConfigurationError: as for `service`.
        """
        return self._service(BotPart.TTS, provider, model, options)

    def realtime(
        self, provider: str | None = None, model: str | None = None, **options: Any
    ) -> FrameProcessor:
        """A model that hears and speaks by itself: the join's own, if it has one, unless told
        otherwise. ``options`` are such as ``system_instruction`` and ``voice``.

        Raises:
            ConfigurationError: as for `service`.
        """
        return self._service(BotPart.REALTIME, provider, model, options)

    def service(self, part: str, provider: str, model: str, **options: Any) -> FrameProcessor:
        """The Pipecat service of a vendor that Flow knows.

        Several of one part may work in a call, each with its own name in the pipeline.

        Args:
            part: ``stt``, ``llm``, ``tts`` or ``realtime``.
            provider: as joins name it.
            options: what a join could say of it beside vendor and model.

        Raises:
            ConfigurationError: there is no such vendor or service, or its key or package is
                missing.
        """
        if part not in set(BotPart):
            raise ConfigurationError(f"{part!r} is not one of {', '.join(BotPart)}.")
        return self._services.build(BotPart(part), Choice(provider, model, options))

    def context(self, messages: Sequence[Any] = (), tools: Any = None) -> LLMContext:
        """A context that begins with what has been said so far, then ``messages``."""
        context = context_of(messages_of(self.said, (), in_words=False))
        context.add_messages(list(messages))
        if tools is not None:
            context.set_tools(tools)
        return context

    def aggregators(self, context: LLMContext) -> LLMContextAggregatorPair:
        """The user's and the assistant's aggregator, with the service's own way to tell when the
        caller speaks and has finished. What they gather is the transcript."""
        return aggregator_pair(context, self._listen(hears=self._services.hearing))

    async def queue_frames(self, *frames: Frame) -> None:
        """Send frames down the pipeline from its beginning, once it is there."""
        worker = await asyncio.shield(self._handover.worker)
        await worker.queue_frames(list(frames))

    async def run(self, pipeline: Given) -> EndReason:
        """Run the pipeline until the call is over: for a bot that has something to clear up then.

        Returns why the call ended. What is done afterwards is limited to a few seconds.

        Raises:
            ConfigurationError: the pipeline cannot be run, or something in it is not metered.
        """
        if self._handover.given.done():
            raise RuntimeError("a call has one pipeline, and this one has it already")
        self._handover.given.set_result(pipeline)
        return await asyncio.shield(self._handover.over)

    def _service(
        self, part: BotPart, provider: str | None, model: str | None, options: dict[str, Any]
    ) -> FrameProcessor:
        """The service of the join, or another that is told all that the join says of any."""
        own = getattr(self.join.bot, part) or Realtime()
        asked = own
        if provider is None and own.provider is None:
            raise ConfigurationError(f"the join names no {part.value} model, nor does the bot")
        if provider is not None and provider != own.provider:
            if model is None:
                raise ConfigurationError(f"name a model of {provider!r}")
            # A voice or model belongs to its vendor.
            asked = type(own)(provider=provider, model=model)
        elif model is not None:
            asked = own.model_copy(update={"model": model})
        choice = choice_of(part, self.join.bot.model_copy(update={part.value: asked}))
        return self._services.build(part, replace(choice, options={**choice.options, **options}))
