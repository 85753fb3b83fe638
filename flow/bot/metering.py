"""Making usage events where a vendor's work is asked for, which is where it is billed.

Pipecat's own usage frames are not enough for an invoice. A chat stream cut off by a barge-in
reports nothing, though its prompt and what was generated are billed; a speech segment is
reported when it is queued, though a hang-up may drop it unsent; the fragment a voice was
speaking when interrupted is sent but not reported. So each service Flow builds is *metered*:
`begin` is called before the request goes out and `finish` however it ends. Usage frames of
services Flow did not build are counted by `flow.bot.metrics` instead; never both.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from typing import Any, Protocol
from uuid import UUID

from pipecat.frames.frames import ErrorFrame, Frame, TTSAudioRawFrame
from pipecat.services.stt_service import SegmentedSTTService
from pipecat.services.tts_service import TTSService

from flow.domain.usage import (
    CostControl,
    Failure,
    Kind,
    Outcome,
    Owner,
    Provenance,
    Quantities,
    UsageEvent,
)

MICROSECOND = Decimal("0.000001")
WAV_HEADER_BYTES = 44
TYPICAL_CHARACTERS_A_SECOND = Decimal(15)


class Recording(Protocol):
    """What a meter needs of `flow.usage.recorder.Recorder`."""

    def begin(self, event: UsageEvent) -> None:
        """Note that work has begun."""

    def record(self, event: UsageEvent) -> None:
        """Take the finished account."""

    def discard(self, event: UsageEvent) -> None:
        """Forget work that came to nothing."""


@dataclass(frozen=True, slots=True)
class Service:
    """Which vendor's model a meter counts. ``capture`` as in `UsageEvent`."""

    kind: Kind
    provider: str
    model: str
    capture: bool = True


class Work:
    """One piece of vendor work under way. `finish` or `discard` ends it; later calls do nothing.

    ``is_unread`` is set while an attempt has been answered and nothing has failed of it: an error
    then means that the vendor served, and billed, what could not be made sense of.
    """

    def __init__(self, recorder: Recording, opening: UsageEvent) -> None:
        self._recorder = recorder
        self._opening = opening
        self._started = time.monotonic()
        self._first: float | None = None
        self.done = False
        self.is_unread = False
        recorder.begin(opening)

    @property
    def id(self) -> UUID:
        """The id the work's event has, before and after it is recorded."""
        return self._opening.id

    @property
    def thread_id(self) -> UUID:
        """The thread the work is for."""
        return self._opening.owner.workflow_thread_id

    @property
    def model(self) -> str:
        """The model the request went to."""
        return self._opening.model

    @property
    def asked_for(self) -> str | None:
        """The model the call asked for."""
        return self._opening.requested_model

    @property
    def estimate(self) -> Quantities:
        """What the work was expected to consume when it began."""
        return self._opening.quantities

    @property
    def has_output(self) -> bool:
        """Whether the vendor has answered with anything of use."""
        return self._first is not None

    def first_output(self) -> None:
        """Note the time of the first output; only the first call counts."""
        if self._first is None:
            self._first = time.monotonic() - self._started

    def renew(self, estimate: Quantities) -> None:
        """Put the work so far on record, should the process die before it is finished."""
        if not self.done:
            self._opening = replace(self._opening, quantities=estimate)
            self._recorder.begin(self._opening)

    def finish(
        self,
        quantities: Quantities,
        provenance: Provenance,
        outcome: Outcome = Outcome.OK,
        **known: Any,
    ) -> None:
        """Record the work as done. ``known`` are further fields of `UsageEvent`."""
        if self.done:
            return
        self.done = True
        self._recorder.record(
            replace(
                self._opening,
                quantities=quantities,
                provenance=provenance,
                outcome=outcome,
                latency_secs=round(time.monotonic() - self._started, 6),
                time_to_first_token_secs=None if self._first is None else round(self._first, 6),
                **known,
            )
        )

    def discard(self) -> None:
        """The vendor did no work, or what it did was recorded attempt by attempt."""
        if not self.done:
            self.done = True
            self._recorder.discard(self._opening)


class Meter:
    """Counts one service's work in one call; ``control`` says what is done about its cost."""

    def __init__(
        self,
        service: Service,
        owner: Owner,
        recorder: Recording,
        control: Callable[[], CostControl] = CostControl,
    ) -> None:
        self.service = service
        self._owner = owner
        self._recorder = recorder
        self._control = control
        self._current: Work | None = None
        self._live: set[Work] = set()

    def begin(
        self,
        estimate: Quantities,
        *,
        model: str | None = None,
        asked_for: str | None = None,
        stream: bool,
    ) -> Work:
        """A request to ``model`` is about to go out that will consume about ``estimate``.

        ``asked_for`` is the model that the call asked for, where that is another.
        """
        opening = self._event(
            estimate, Provenance.ESTIMATED, model=model, asked_for=asked_for, stream=stream
        )
        self._current = Work(self._recorder, opening)
        self._live = {work for work in self._live if not work.done} | {self._current}
        return self._current

    def close(self) -> None:
        """The call is over: what is still under way was cut off with it."""
        for work in self._live:
            work.finish(work.estimate, Provenance.ESTIMATED, Outcome.INTERRUPTED)

    def attempt_answered(self) -> None:
        """One HTTP attempt is being answered, with what is not known yet."""
        if self._current is not None:
            self._current.is_unread = True

    def attempt_failed(self, status: int | None, error_type: str, secs: float) -> None:
        """One HTTP attempt failed; the vendor's SDK may try again under the same request.

        What the vendor may have served is counted as estimated; the rest counts nothing and
        only stands in the ledger. An answer that broke off after some of it was used is
        counted by whoever used it.
        """
        current = self._current
        if current is not None:
            current.is_unread = False
        failure = Failure(error_type, f"HTTP {status}" if status else error_type, status)
        if status is not None and status < 400 and current is not None and current.has_output:
            return
        consumed = current is not None and not failure.consumed_nothing
        quantities = current.estimate if current is not None and consumed else Quantities()
        self._recorder.record(
            replace(
                self._event(
                    quantities,
                    Provenance.ESTIMATED if consumed else Provenance.MEASURED,
                    model=current.model if current else None,
                    asked_for=current.asked_for if current else None,
                    stream=False,
                ),
                outcome=Outcome.ERROR,
                latency_secs=round(secs, 6),
                failure=failure,
            )
        )

    def _event(
        self,
        quantities: Quantities,
        provenance: Provenance,
        *,
        model: str | None,
        asked_for: str | None,
        stream: bool,
    ) -> UsageEvent:
        return UsageEvent(
            owner=self._owner,
            kind=self.service.kind,
            source="bot",
            provider=self.service.provider,
            model=model or self.service.model,
            requested_model=asked_for or model or self.service.model,
            sent_model=model if asked_for and asked_for != model else None,
            quantities=quantities,
            provenance=provenance,
            stream=stream,
            capture=self.service.capture,
            control=self._control(),
        )


def pcm_seconds(size: int, sample_rate: int, channels: int = 1) -> Decimal:
    """Seconds of 16-bit sound in ``size`` bytes, to the microsecond."""
    return (Decimal(size) / (2 * channels * sample_rate)).quantize(MICROSECOND)


class SpeakingPace:
    """How fast a voice speaks, learned from what it has spoken to the end.

    A vendor makes the whole sentence, mostly faster than it is heard, and bills all of it when a
    barge-in closes the connection. How long the rest was is estimated from its characters.
    """

    def __init__(self) -> None:
        self._characters = TYPICAL_CHARACTERS_A_SECOND
        self._seconds = Decimal(1)

    def learn(self, characters: int, seconds: Decimal) -> None:
        """A sentence was spoken to its end."""
        self._characters += characters
        self._seconds += seconds

    def seconds(self, characters: int) -> Decimal:
        """How long so many characters may last."""
        return (self._seconds * characters / self._characters).quantize(MICROSECOND)


@cache
def metered_tts(service: type[TTSService]) -> type[TTSService]:
    """The same voice, counting each request as it is sent: characters and seconds of sound."""

    class Metered(service):  # type: ignore[valid-type,misc]
        def __init__(self, *, meter: Meter, **options: Any) -> None:
            super().__init__(**options)
            self._meter = meter
            self._pace = SpeakingPace()

        async def run_tts(self, text: str, context_id: str) -> AsyncIterator[Frame | None]:
            expected = Quantities(characters=len(text), audio_seconds=self._pace.seconds(len(text)))
            work = self._meter.begin(expected, model=self._settings.model, stream=True)
            spoken = Spoken(work, self._pace)
            async with aclosing(_metered(super().run_tts(text, context_id), spoken)) as frames:
                async for frame in frames:
                    yield frame

    Metered.__name__ = Metered.__qualname__ = service.__name__
    return Metered


@cache
def metered_stt(service: type[SegmentedSTTService]) -> type[SegmentedSTTService]:
    """The same ears for segments of speech, counting each segment as it is sent, in seconds."""

    class Metered(service):  # type: ignore[valid-type,misc]
        def __init__(self, *, meter: Meter, **options: Any) -> None:
            super().__init__(**options)
            self._meter = meter

        async def run_stt(self, audio: bytes) -> AsyncIterator[Frame | None]:
            size = len(audio) - (WAV_HEADER_BYTES if self.wants_wav_segments else 0)
            sent = Quantities(audio_seconds=pcm_seconds(size, self.sample_rate))
            work = self._meter.begin(sent, model=self._settings.model, stream=False)
            async with aclosing(_metered(super().run_stt(audio), Heard(work))) as frames:
                async for frame in frames:
                    yield frame

    Metered.__name__ = Metered.__qualname__ = service.__name__
    return Metered


class Heard:
    """The account of one request whose amount is known when it is sent."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.answered = False

    def see(self, frame: Frame) -> None:
        """Take in what the service yields."""
        self.work.first_output()
        self.answered = True

    def finish(self, outcome: Outcome, failure: Failure | None = None) -> None:
        """Count the request; one cut off before any answer may not have been served."""
        certain = self.answered or outcome is Outcome.OK
        provenance = Provenance.MEASURED if certain else Provenance.ESTIMATED
        self.work.finish(self.work.estimate, provenance, outcome, failure=failure)


class Spoken(Heard):
    """The account of one request to a voice: its sound is counted as it arrives."""

    def __init__(self, work: Work, pace: SpeakingPace) -> None:
        super().__init__(work)
        self._pace = pace
        self._seconds = Decimal(0)

    def see(self, frame: Frame) -> None:
        """Take in a frame; sound is what a voice answers with."""
        if isinstance(frame, TTSAudioRawFrame):
            super().see(frame)
            self._seconds += pcm_seconds(len(frame.audio), frame.sample_rate, frame.num_channels)

    def finish(self, outcome: Outcome, failure: Failure | None = None) -> None:
        """Count the request: the sound that came, or all that was likely made."""
        expected = self.work.estimate
        if outcome is Outcome.OK:
            self._pace.learn(expected.characters, self._seconds)
            spoken, provenance = self._seconds, Provenance.MEASURED
        else:
            spoken, provenance = max(self._seconds, expected.audio_seconds), Provenance.ESTIMATED
        self.work.finish(
            replace(expected, audio_seconds=spoken), provenance, outcome, failure=failure
        )


async def _metered(
    frames: AsyncGenerator[Frame | None, None], account: Heard
) -> AsyncGenerator[Frame | None, None]:
    """Pass on what a service yields and end its account the way it ends.

    A failure before any answer is discarded here: each attempt that failed was recorded by
    `Meter.attempt_failed`, and a request that was never made has cost nothing. An answer that
    could not be read is neither.
    """
    failure: Failure | None = None
    try:
        async with aclosing(frames):
            async for frame in frames:
                if isinstance(frame, ErrorFrame):
                    failure = Failure(type(frame.exception).__name__, "the service failed")
                elif frame is not None:
                    account.see(frame)
                yield frame
    except Exception as error:
        failure = Failure(type(error).__name__, "the service failed")
        raise
    except BaseException:
        account.finish(Outcome.INTERRUPTED)
        raise
    finally:
        if failure is None:
            account.finish(Outcome.OK)
        elif account.answered or account.work.is_unread:
            account.finish(Outcome.ERROR, failure)
        else:
            account.work.discard()
