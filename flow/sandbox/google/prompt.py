"""Counting a prompt's tokens for Google's stand-in.

Gemini's vocabulary is not public: text is counted in OpenAI's, with a chat's overhead. Pictures
and sound have a fixed price (ai.google.dev, "Understand and count tokens").
"""

from __future__ import annotations

import base64
import json
from math import ceil

from flow.sandbox.google.generate_request import Content, GenerateRequest, Part
from flow.sandbox.openai.tokens import TOKENS_OF_PRIMING, TOKENS_PER_MESSAGE, Prompt, encode

TOKENS_PER_IMAGE = 258
AUDIO_TOKENS_PER_SEC = 32
# 16-bit sound at 16,000 Hz, to which Gemini brings all sound.
_PCM_BYTES_PER_SEC = 32_000

_FILLER = -1


def read_prompt(asked: GenerateRequest) -> Prompt:
    """The whole prompt: tools, schema, system instruction, turns."""
    tokens: list[int] = []
    schema = asked.generation_config.schema_wanted
    for extra in (*asked.functions, *([schema] if schema else [])):
        tokens += encode(json.dumps(extra, separators=(",", ":")))
    audio = 0
    system = [asked.system_instruction] if asked.system_instruction else []
    for content in (*system, *asked.contents):
        heard = sum(map(_audio_tokens, content.parts))
        audio += heard
        tokens += turn_tokens(content) + [_FILLER] * heard
    return Prompt((*tokens, *[_FILLER] * TOKENS_OF_PRIMING), audio)


def turn_tokens(content: Content) -> list[int]:
    """The tokens of a turn, without its sound."""
    said = [_FILLER] * TOKENS_PER_MESSAGE + encode(content.role or "user")
    for part in content.parts:
        said += _part(part)
    return said


def _part(part: Part) -> list[int]:
    if part.inline_data:
        return [] if _is_audio(part) else [_FILLER] * TOKENS_PER_IMAGE
    if call := part.function_call:
        return encode(f"{call.get('name')}{json.dumps(call.get('args') or {})}")
    if answer := part.function_response:
        return encode(json.dumps(answer, separators=(",", ":")))
    return encode(part.text or "")


def _is_audio(part: Part) -> bool:
    given = part.inline_data or {}
    return str(given.get("mimeType") or given.get("mime_type")).startswith("audio/")


def _audio_tokens(part: Part) -> int:
    if not _is_audio(part):
        return 0
    size = len(decoded((part.inline_data or {}).get("data", "")))
    return ceil(size / _PCM_BYTES_PER_SEC * AUDIO_TOKENS_PER_SEC)


def decoded(data: str) -> bytes:
    """What base64 stands for, in either alphabet: Google's SDK sends the one for URLs."""
    return base64.b64decode(data.replace("-", "+").replace("_", "/"))
