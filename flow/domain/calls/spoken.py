"""What a caller is told by the carrier's own voice, when no bot is there to say it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Sentence(StrEnum):
    """Why nobody answers. A budget is nobody's business but its owner's: the caller is told no
    more than that it is not possible now."""

    UNAVAILABLE = "unavailable"
    NOT_IN_SERVICE = "not_in_service"


_TEXTS: Mapping[str, Mapping[Sentence, str]] = {
    "en": {
        Sentence.UNAVAILABLE: "Sorry, we cannot take your call at the moment. Please try again"
        " later. Goodbye.",
        Sentence.NOT_IN_SERVICE: "Sorry, this number is not in service. Goodbye.",
    },
    "de": {
        Sentence.UNAVAILABLE: "Wir können Ihren Anruf im Moment leider nicht annehmen. Bitte"
        " versuchen Sie es später noch einmal. Auf Wiederhören.",
        Sentence.NOT_IN_SERVICE: "Diese Nummer ist leider nicht vergeben. Auf Wiederhören.",
    },
    "fr": {
        Sentence.UNAVAILABLE: "Nous ne pouvons pas prendre votre appel pour le moment. Veuillez"
        " réessayer plus tard. Au revoir.",
        Sentence.NOT_IN_SERVICE: "Ce numéro n'est pas en service. Au revoir.",
    },
    "es": {
        Sentence.UNAVAILABLE: "Lo sentimos, no podemos atender su llamada en este momento. Por"
        " favor, inténtelo más tarde. Adiós.",
        Sentence.NOT_IN_SERVICE: "Lo sentimos, este número no está en servicio. Adiós.",
    },
    "it": {
        Sentence.UNAVAILABLE: "Siamo spiacenti, al momento non possiamo rispondere. La preghiamo"
        " di riprovare più tardi. Arrivederci.",
        Sentence.NOT_IN_SERVICE: "Siamo spiacenti, questo numero non è attivo. Arrivederci.",
    },
    "nl": {
        Sentence.UNAVAILABLE: "Sorry, we kunnen uw oproep op dit moment niet beantwoorden."
        " Probeer het later nog eens. Tot ziens.",
        Sentence.NOT_IN_SERVICE: "Sorry, dit nummer is niet in gebruik. Tot ziens.",
    },
    "pt": {
        Sentence.UNAVAILABLE: "Desculpe, não podemos atender a sua chamada neste momento. Por"
        " favor, tente mais tarde. Adeus.",
        Sentence.NOT_IN_SERVICE: "Desculpe, este número não está em serviço. Adeus.",
    },
}

# Carriers' voices are of a country, where bots may name a language alone.
_COUNTRIES: Mapping[str, str] = {
    "da": "DK", "de": "DE", "en": "US", "es": "ES", "fi": "FI", "fr": "FR", "it": "IT",
    "ja": "JP", "ko": "KR", "nb": "NO", "nl": "NL", "pl": "PL", "pt": "PT", "ro": "RO",
    "ru": "RU", "sv": "SE", "tr": "TR", "zh": "CN",
}  # fmt: skip


def sentence(which: Sentence, language: str | None) -> tuple[str, str]:
    """The text in a bot's language, or in English, and the language that it is in."""
    spoken = _of(language)
    if spoken not in _TEXTS:
        spoken, language = "en", "en-US"
    return _TEXTS[spoken][which], voice_language(language) or spoken


def voice_language(language: str | None) -> str | None:
    """A bot's language as carriers name their voices: with a country; ``None``: not known."""
    if language is None or "-" in language:
        return language
    country = _COUNTRIES.get(language.lower())
    return country and f"{language.lower()}-{country}"


def _of(language: str | None) -> str:
    return (language or "en").partition("-")[0].lower()
