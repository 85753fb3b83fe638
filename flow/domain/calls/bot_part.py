"""The parts that a bot is made of, each a service of some vendor."""

from __future__ import annotations

from enum import StrEnum

from flow.domain.usage.units import Kind


class BotPart(StrEnum):
    """What a service does in a bot: it hears, thinks or speaks, or all of it (``realtime``).

    Joins, products and settings call a part by its value.
    """

    STT = "stt"
    LLM = "llm"
    TTS = "tts"
    REALTIME = "realtime"

    @property
    def kind(self) -> Kind:
        """What its work is in the ledger: speech-to-speech is a language model's."""
        return Kind.LLM if self is BotPart.REALTIME else Kind(self.value)


CASCADE = (BotPart.STT, BotPart.LLM, BotPart.TTS)
"""The parts of a bot that is not speech-to-speech."""
