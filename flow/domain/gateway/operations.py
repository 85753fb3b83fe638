"""What the gateway serves: the operations of OpenAI's and Anthropic's protocols."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from flow.domain.calls.bot_part import BotPart
from flow.domain.usage.units import Kind


class Protocol(StrEnum):
    """Whose protocol a client speaks, and in whose form it expects errors."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a protocol.

    Args:
        path: below ``/v1``.
        kind: what kind of work it is in the ledger.
        part: the part of a product whose models it may use.
        takes_form: its body is ``multipart/form-data``, and not JSON.
        is_free: no vendor bills it.
        falls_back: another model may answer in place of the one asked for. A vector or a voice of
            another model would be of no use.
    """

    path: str
    protocol: Protocol
    kind: Kind
    part: BotPart
    takes_form: bool = False
    is_free: bool = False
    falls_back: bool = False


CHAT = Operation("/chat/completions", Protocol.OPENAI, Kind.LLM, BotPart.LLM, falls_back=True)
RESPONSES = Operation("/responses", Protocol.OPENAI, Kind.LLM, BotPart.LLM, falls_back=True)
EMBEDDINGS = Operation("/embeddings", Protocol.OPENAI, Kind.EMBEDDING, BotPart.LLM)
SPEECH = Operation("/audio/speech", Protocol.OPENAI, Kind.TTS, BotPart.TTS)
TRANSCRIPTIONS = Operation(
    "/audio/transcriptions", Protocol.OPENAI, Kind.STT, BotPart.STT, takes_form=True
)
MESSAGES = Operation("/messages", Protocol.ANTHROPIC, Kind.LLM, BotPart.LLM, falls_back=True)
COUNT_TOKENS = Operation(
    "/messages/count_tokens", Protocol.ANTHROPIC, Kind.LLM, BotPart.LLM, is_free=True
)

OPERATIONS = MappingProxyType(
    {
        one.path: one
        for one in (
            CHAT, RESPONSES, EMBEDDINGS, SPEECH, TRANSCRIPTIONS, MESSAGES, COUNT_TOKENS
        )
    }
)  # fmt: skip
"""Every operation by its path."""

MODELS_PATH = "/models"
"""Where the models of a product are listed, in either protocol."""

# Whatever the product is called: that there is none of the name is for the gateway to say.
_PATH = re.compile(r"(?:/[^/]+)?/v1(/.*)?", re.DOTALL)


def protocol_of(path: str) -> Protocol | None:
    """The protocol that a client of this path of the server speaks; ``None``: it is no path of the
    gateway. Paths that the gateway does not serve are the protocol's as well."""
    found = _PATH.fullmatch(path)
    if found is None:
        return None
    is_anthropic = (found[1] or "").startswith(MESSAGES.path)
    return Protocol.ANTHROPIC if is_anthropic else Protocol.OPENAI
