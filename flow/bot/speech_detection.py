"""What tells that callers speak and have finished: models loaded once in a process, and strategies.

Pipecat loads a model for each call, which takes a third of a second and 50 MB. What a model
remembers of a call (Silero's recurrent state, Smart Turn's audio) is kept outside ONNX Runtime's
session, and a session may be run by several threads at once, so calls can share one each.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import Any

from pipecat.audio.turn.smart_turn.base_smart_turn import BaseSmartTurn
from pipecat.audio.turn.smart_turn.local_smart_turn_v3 import LocalSmartTurnAnalyzerV3
from pipecat.audio.vad.silero import SileroOnnxModel, SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADAnalyzer, VADParams, VADState
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.stt_service import SegmentedSTTService, STTService
from pipecat.turns.user_start import (
    ExternalUserTurnStartStrategy,
    TranscriptionUserTurnStartStrategy,
    VADUserTurnStartStrategy,
)
from pipecat.turns.user_stop import (
    BaseUserTurnStopStrategy,
    SpeechTimeoutUserTurnStopStrategy,
    TurnAnalyzerUserTurnStopStrategy,
)
from pipecat.turns.user_turn_strategies import ExternalUserTurnStrategies, UserTurnStrategies

from flow.bot.turn_stop import SilenceTurnStop
from flow.domain.calls.join_request import TurnDetection

SILENCE_SECS = 0.6
# Of silence, until it is noticed. A service that is sent segments is sent what lies between two
# silences, so that each short one costs a request and tears words from their sentence; Smart Turn
# is trained on what lies before a silence of 0.2 s.
USUAL_STOP_SECS, SHORT_STOP_SECS = 0.2, 0.1
# Of speech, until it is taken to be speech, and interrupts the bot; Pipecat's own is 0.2.
START_SECS = 0.13
# What is not loud enough for long enough yet may be speech, if the model thinks so of one of the
# last windows, which are 32 ms each.
MAYBE_CONFIDENCE, MAYBE_WINDOWS = 0.4, 6


class CallListening:
    """What listens to the caller of one call.

    Args:
        vad: tells speech from silence.
        strategies: tell when the caller's turns begin and end.
    """

    def __init__(self, vad: VADAnalyzer, strategies: UserTurnStrategies) -> None:
        self.vad = vad
        self.strategies = strategies


class ListeningModels:
    """Makes what calls listen with. Loading a model takes a third of a second: not on the loop.

    Args:
        turn_detection: how the end of a caller's turn is usually told. The model of ``smart`` is
            loaded at once where that is the usual way, and otherwise when a call first needs it.
        silence_secs: how much silence ends a turn, for ``silence``; see `SilenceTurnStop`.
    """

    def __init__(self, turn_detection: TurnDetection, silence_secs: float = SILENCE_SECS) -> None:
        # Sessions are made by Pipecat's own classes, which know the files and options.
        self._voice = SileroVADAnalyzer()._model.session
        self._loading = Lock()
        self._turn: Any = None
        self._usual = turn_detection
        self._silence_secs = silence_secs
        if turn_detection == "smart":
            self._smart_turn()

    async def prepare(self, turn_detection: TurnDetection | None) -> None:
        """Load what a call with this turn detection needs, off the event loop."""
        if (turn_detection or self._usual) == "smart" and self._turn is None:
            await asyncio.to_thread(self._smart_turn)

    def vad(self, stop_secs: float = USUAL_STOP_SECS) -> SharedVAD:
        """Voice activity detection for one call, which notices so much silence."""
        return SharedVAD(self._voice, VADParams(start_secs=START_SECS, stop_secs=stop_secs))

    def listening(
        self,
        turn_detection: TurnDetection | None,
        hears: FrameProcessor | None,
        may_ask_early: Callable[[], bool] = lambda: False,
    ) -> CallListening:
        """What listens in one call.

        However turns end, they begin when voice activity detection notices speech, so that an
        interruption is as fast with each.

        Args:
            turn_detection: ``vendor`` only with a service that tells turns; ``None``: the usual.
            hears: the call's service that hears: STT, or a speech-to-speech model; ``None``: it is
                not known.
            may_ask_early: whether the model may be asked before the turn is over.
        """
        turn_detection = turn_detection or self._usual
        if turn_detection == "smart":
            stop = TurnAnalyzerUserTurnStopStrategy(
                turn_analyzer=SharedSmartTurn(self._smart_turn())
            )
            return CallListening(self.vad(), _started_by_voice(stop))
        if not isinstance(hears, STTService):
            return CallListening(self.vad(), self._for_speech_to_speech(turn_detection))
        is_segmented = isinstance(hears, SegmentedSTTService)
        vad = self.vad(USUAL_STOP_SECS if is_segmented else SHORT_STOP_SECS)
        if turn_detection == "vendor":
            return CallListening(vad, _told_by_vendor(hears))
        silence = SilenceTurnStop(
            self._silence_secs,
            may_ask_early=may_ask_early,
            may_be_speech=lambda: vad.may_be_speech,
        )
        return CallListening(vad, _started_by_voice(silence))

    def _for_speech_to_speech(self, turn_detection: TurnDetection) -> UserTurnStrategies:
        """A model that hears by itself is asked by nobody, and its transcripts come late."""
        if turn_detection == "vendor":
            return _told_by_vendor(None)
        return _started_by_voice(
            SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=self._silence_secs)
        )

    def _smart_turn(self) -> Any:
        """The session of Smart Turn's model."""
        with self._loading:
            if self._turn is None:
                self._turn = LocalSmartTurnAnalyzerV3()._session
        return self._turn


class SharedVAD(SileroVADAnalyzer):
    """Pipecat's Silero analyzer on a session that it shares, run where it is called.

    A window of 32 ms takes about as long as handing it to a thread and back would.
    """

    def __init__(self, session: Any, params: VADParams | None = None) -> None:
        # Not the parent's constructor: it would load the model.
        VADAnalyzer.__init__(self, params=params)
        self._model = _SharedSilero(session)
        self._windows_since_reset = 0
        self._low_confidence_windows = 0
        self._recent: deque[float] = deque(maxlen=MAYBE_WINDOWS)

    @property
    def may_be_speech(self) -> bool:
        """Whether what was last heard may turn out to be the beginning of speech."""
        return any(confidence >= MAYBE_CONFIDENCE for confidence in self._recent)

    def voice_confidence(self, buffer: bytes) -> float:
        """The model's confidence, of 0 to 1, that a window is speech."""
        confidence: float = super().voice_confidence(buffer)
        self._recent.append(confidence)
        return confidence

    async def analyze_audio(self, buffer: bytes) -> VADState:
        """The state after ``buffer``, of any length."""
        return self._run_analyzer(buffer)


class SharedSmartTurn(LocalSmartTurnAnalyzerV3):
    """Pipecat's Smart Turn on a session that it shares; it runs in a thread, as Pipecat's does."""

    def __init__(self, session: Any) -> None:
        # Not the parent's constructor, as above.
        BaseSmartTurn.__init__(self)
        self._session = session
        # Pipecat would write callers' audio to disk if an environment variable said so.
        self._log_data = False


class _SharedSilero(SileroOnnxModel):
    """One call's state of the Silero model."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.sample_rates = [8000, 16000]
        self.reset_states()  # type: ignore[no-untyped-call]


def _started_by_voice(stop: BaseUserTurnStopStrategy) -> UserTurnStrategies:
    start = [VADUserTurnStartStrategy(), TranscriptionUserTurnStartStrategy()]
    return UserTurnStrategies(start=start, stop=[stop])


def _told_by_vendor(stt: Any) -> UserTurnStrategies:
    """As the service recommends: one that predicts the end of a turn is answered early."""
    recommended = getattr(stt, "recommended_user_turn_strategies", None)
    strategies: UserTurnStrategies = (
        ExternalUserTurnStrategies()
        if recommended is None
        else recommended(enable_interruptions=True)
    )
    strategies.start = [VADUserTurnStartStrategy(), ExternalUserTurnStartStrategy()]
    return strategies
