"""What the stand-in's model says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flow.sandbox.openai.schema import example
from flow.sandbox.openai.schema_parts import NoExample

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a function. ``arguments`` is what goes over the wire: JSON text."""

    name: str
    arguments: str = "{}"


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply. ``reasoning_tokens`` are spent before it and ``audio_tokens`` with it; both
    are billed as part of its completion, and neither is seen in the text."""

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    refusal: str | None = None
    reasoning_tokens: int = 0
    audio_tokens: int = 0


Script = Sequence[Reply | str] | Callable[[Sequence[Message]], Reply | str | None]
"""What to say: a list, whose n-th reply is for the n-th turn of the user in a conversation
(beyond its end it starts over), or a function of the messages, which may answer ``None`` to
leave it to the stand-in."""

SMALL_TALK = (
    "Hello, and thanks for calling! I am happy to help you with whatever you have in mind today."
    " You can ask me about your order, your account, or our opening hours. Where would you like"
    " to start?",
    "That is a good question, and I am glad you asked. Let me walk you through it one step at a"
    " time. First we look at what you have now, then at what you would like to have, and then"
    " we find the simplest way from one to the other. Does that sound right to you?",
    "I understand. Many people tell me the same thing, so you are in good company. The usual"
    " way is to change it in your settings, which takes about a minute. I can also do it for"
    " you right now while we talk. Which of the two would you prefer?",
    "All right, that is done. You will receive a short confirmation by email within the next"
    " few minutes. If anything in it looks wrong, just call again and we will put it right. Is"
    " there anything else that I can do for you today?",
)

_NAMED_TOOL = re.compile(r"\s*([\w-]+)\s*(\{.*\})?\s*", re.DOTALL)
_DICTATION = re.compile(r"Say this\b.*?\bword for word\b.*?: (.+)", re.DOTALL)

REFUSAL = "I'm sorry, I can't help with that."


class Unfit(ValueError):
    """The model cannot answer in the form it was asked for."""


def decide(script: Script, request: Mapping[str, Any]) -> Reply:
    """The reply to a chat request.

    What it is told to say word for word, it says. Else a function's word is final. Otherwise a
    request for JSON gets JSON that fits its schema, one that demands a tool gets a call of it, one
    whose user has said nothing but a tool's name (``find_table {"people": 4}``, or the name alone)
    gets that call, and any other gets the script's next line.

    Raises:
        Unfit: no JSON can be found that fits the schema.
    """
    messages = request["messages"]
    if dictated := _DICTATION.match(text_of(messages[-1]) if messages else ""):
        return Reply(dictated[1])
    if callable(script):
        told = script(messages)
        if told is not None:
            return told if isinstance(told, Reply) else Reply(told)
    structured = _structured(request, messages)
    if structured is not None:
        return structured
    lines: Sequence[Reply | str] = SMALL_TALK if callable(script) or not script else script
    turns = sum(message.get("role") == "user" for message in messages)
    line = lines[max(turns - 1, 0) % len(lines)]
    return line if isinstance(line, Reply) else Reply(line)


def _structured(request: Mapping[str, Any], messages: Sequence[Message]) -> Reply | None:
    wanted = request.get("response_format") or {}
    about = _spoken(transcript(messages))
    try:
        if wanted.get("type") == "json_schema":
            schema = wanted["json_schema"].get("schema") or {"type": "object"}
            return Reply(_json(example(schema, about)))
        if wanted.get("type") == "json_object":
            return Reply(_json({"summary": about[:200]}))
        tool = _demanded_tool(request)
        if tool is None:
            return _named_tool(request, messages)
        return Reply(tool_calls=(ToolCall(tool["name"], _arguments(tool, about)),))
    except NoExample as error:
        raise Unfit(str(error)) from None


def _named_tool(request: Mapping[str, Any], messages: Sequence[Message]) -> Reply | None:
    """A call of the tool that the user names, with the arguments that follow, if any do.

    What the bot was saying when that came is behind it, and the tool's answer when it is done.
    """
    last = next((m for m in reversed(messages) if m.get("role") in ("user", "tool")), {})
    if last.get("role") != "user" or request.get("tool_choice") == "none":
        return None
    named = _NAMED_TOOL.fullmatch(text_of(last))
    tool = next((f for f in _functions(request) if named and f.get("name") == named[1]), None)
    if named is None or tool is None:
        return None
    return Reply(tool_calls=(ToolCall(named[1], named[2] or _arguments(tool, "")),))


def _arguments(tool: Mapping[str, Any], about: str) -> str:
    return _json(example(tool.get("parameters") or {"type": "object"}, about))


def _functions(request: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [t["function"] for t in request.get("tools") or [] if t.get("type") == "function"]


def _demanded_tool(request: Mapping[str, Any]) -> Mapping[str, Any] | None:
    functions = _functions(request)
    choice = request.get("tool_choice")
    if isinstance(choice, dict):
        name = choice.get("function", {}).get("name")
        return next((f for f in functions if f.get("name") == name), None)
    return functions[0] if choice == "required" and functions else None


def transcript(messages: Sequence[Message]) -> str:
    """The words of the conversation without its instructions, the last message's if possible."""
    said = [text_of(m) for m in messages if m.get("role") not in ("system", "developer")]
    return next((text for text in reversed(said) if text.strip()), "")


def _spoken(text: str) -> str:
    """What was said in a transcript of JSON lines, such as insights are drawn from; other text as
    it is."""
    try:
        lines = [json.loads(line) for line in text.splitlines()]
    except ValueError:
        return text
    said = [line.get("text") for line in lines if isinstance(line, dict)]
    return " ".join(words for words in said if isinstance(words, str)) or text


def text_of(message: Message) -> str:
    """The plain text of a message, whichever way its content is written."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    return " ".join(str(part.get("text", "")) for part in content or [])


def until_stop(reply: Reply, stop: str | Sequence[str] | None) -> Reply:
    """The reply up to the first stop sequence, which is not said."""
    text = reply.text
    for sequence in [stop] if isinstance(stop, str) else stop or []:
        text = text.split(sequence, 1)[0] if sequence else text
    return replace(reply, text=text)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
