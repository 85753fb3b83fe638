"""The services that a resolved join chooses."""

from __future__ import annotations

from typing import Any

from flow.bot.vendors.spec import Choice
from flow.domain.calls.bot_part import BotPart
from flow.domain.calls.join_request import Bot

SYSTEM_PROMPT = (
    "You are a helpful assistant on a phone call. Your words are spoken aloud: answer in short,"
    " plain sentences without lists, markup or emoji."
)


def choice_of(part: BotPart, bot: Bot) -> Choice:
    """The service that does a part of a bot, with all that the join says of it."""
    chosen = getattr(bot, part)
    assert chosen.provider, "the join was not resolved"
    assert chosen.model, "the join was not resolved"
    return Choice(chosen.provider, chosen.model, _options(part, bot), api_of(chosen))


def api_of(chosen: Any) -> str:
    """The API that a part of a join asks for."""
    return getattr(chosen, "api", None) or "chat"


def _options(part: BotPart, bot: Bot) -> dict[str, Any]:
    prompt = {"system_instruction": bot.system_prompt or SYSTEM_PROMPT}
    match part:
        case BotPart.STT:
            return {"language": bot.language}
        case BotPart.LLM:
            return {
                **prompt,
                "temperature": bot.llm.temperature,
                "max_tokens": bot.llm.max_tokens,
            }
        case BotPart.TTS:
            return {"voice": bot.tts.voice, "language": bot.language}
        case BotPart.REALTIME:
            assert bot.realtime is not None
            return {**prompt, "voice": bot.realtime.voice, "language": bot.language}
