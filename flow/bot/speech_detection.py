"""The models that listen to callers: loaded once in a process, shared by all its calls.

Pipecat loads a model for each call, which takes a third of a second and 50 MB. What a model
remembers of a call (Silero's recurrent state, Smart Turn's audio) is kept outside ONNX Runtime's
session, and a session may be run by several threads at once, so calls can share one each.
"""

from __future__ import annotations

from typing import Any, Literal

from pipecat.audio.turn.smart_turn.base_smart_turn import BaseSmartTurn
from pipecat.audio.turn.smart_turn.local_smart_turn_v3 import LocalSmartTurnAnalyzerV3
from pipecat.audio.vad.silero import SileroOnnxModel, SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADAnalyzer, VADState
from pipecat.turns.user_stop import (
    BaseUserTurnStopStrategy,
    SpeechTimeoutUserTurnStopStrategy,
    TurnAnalyzerUserTurnStopStrategy,
)

TurnDetection = Literal["silence", "smart"]

SILENCE_SECS = 0.6


class ListeningModels:
    """Makes what a call listens with. Loading takes a third of a second: not on the event loop.

    Args:
        turn_detection: how the end of a caller's turn is told: by ``silence``, or by ``smart`` turn
            detection, whose model is loaded only for it.
        silence_secs: how much silence that is.
    """

    def __init__(self, turn_detection: TurnDetection, silence_secs: float = SILENCE_SECS) -> None:
        # Sessions are made by Pipecat's own classes, which know the files and options.
        self._voice = SileroVADAnalyzer()._model.session
        self._turn = LocalSmartTurnAnalyzerV3()._session if turn_detection == "smart" else None
        self._silence_secs = silence_secs

    def vad(self) -> VADAnalyzer:
        """Voice activity detection for one call."""
        return SharedVAD(self._voice)

    def turn_stop(self) -> BaseUserTurnStopStrategy:
        """What tells the end of a caller's turn in one call."""
        if self._turn is None:
            return SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=self._silence_secs)
        return TurnAnalyzerUserTurnStopStrategy(turn_analyzer=SharedSmartTurn(self._turn))


class SharedVAD(SileroVADAnalyzer):
    """Pipecat's Silero analyzer on a session that it shares, run where it is called.

    A window of 32 ms takes about as long as handing it to a thread and back would.
    """

    def __init__(self, session: Any) -> None:
        # Not the parent's constructor: it would load the model.
        VADAnalyzer.__init__(self)
        self._model = _SharedSilero(session)
        self._windows_since_reset = 0
        self._low_confidence_windows = 0

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
