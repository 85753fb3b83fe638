"""What a bot says while a tool is slow, where nobody has said what."""

from __future__ import annotations

_SENTENCES = {
    "de": "Einen Moment, bitte.",
    "en": "One moment, please.",
    "es": "Un momento, por favor.",
    "fr": "Un instant, s'il vous plaît.",
    "it": "Un momento, per favore.",
    "nl": "Een ogenblik, alstublieft.",
    "pl": "Chwileczkę, proszę.",
    "pt": "Um momento, por favor.",
    "sv": "Ett ögonblick, tack.",
}


def waiting_sentence(language: str | None) -> str:
    """The sentence in a bot's language, English where it has none; ``""`` where there is none.

    Args:
        language: a BCP 47 tag, such as ``de`` or ``pt-BR``.
    """
    return _SENTENCES.get((language or "en").partition("-")[0].lower(), "")
