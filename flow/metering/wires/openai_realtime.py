"""OpenAI's Realtime API over a WebSocket (platform.openai.com/docs/api-reference/realtime).

A response is a language model's work, from ``response.created`` to ``response.done``, which
reports its usage: the whole conversation as input, and text and sound as output. What the caller
says may be transcribed beside that, by a model of its own and at that model's price; each
transcription reports for itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flow.domain.usage.events import Failure, Quantities
from flow.domain.usage.token_estimates import count_tokens
from flow.domain.usage.units import Kind
from flow.domain.usage.vendor_reports import Counting, from_openai_usage
from flow.metering.evidence import (
    Completed,
    Ended,
    Evidence,
    Failed,
    Opening,
    Output,
    Reported,
    Unbilled,
)
from flow.metering.wires.json_exchange import report, text, within
from flow.metering.wires.openai_realtime_conversation import Conversation
from flow.metering.wires.reader import names_a_code, parsed, told_seconds
from flow.metering.wires.socket import (
    Begun,
    Closing,
    Message,
    Over,
    Refused,
    Seen,
    Shown,
    query_value,
)

_HEARD = "conversation.item.input_audio_transcription."
_TEXT = frozenset(
    {
        "response.output_text.delta",
        "response.output_audio_transcript.delta",
        "response.function_call_arguments.delta",
    }
)
# A client that is told so goes on as before; a session that has expired is closed next.
_HARMLESS = frozenset(
    {
        "session_expired",
        "response_cancel_not_active",
        "conversation_already_has_active_response",
        "item_retrieve_invalid_item_id",
    }
)
# The vendor does no work, and bills none.
_UNSERVED = frozenset({"rate_limit_exceeded", "insufficient_quota"})


class OpenAIRealtime:
    """Reads one session. ``url`` is that of its connection, which names the model."""

    def __init__(self, url: str) -> None:
        self._conversation = Conversation(query_value(url, "model") or "")
        self._responses: set[str] = set()
        self._transcriptions: set[str] = set()

    @property
    def expects_report(self) -> bool:
        """Whether a response is not done, or a transcription not told."""
        return bool(self._responses or self._transcriptions)

    def sent(self, message: Message) -> Iterator[Seen]:
        """Count the sound that goes to the vendor."""
        event = parsed(message)
        if isinstance(event, Mapping):
            self._conversation.sent(event)
        yield from ()

    def received(self, message: Message) -> Iterator[Seen]:
        """Read a server event; one that is not known shows nothing."""
        event = parsed(message)
        if not isinstance(event, Mapping):
            yield from self._unreadable()
            return
        kind = text(event.get("type"))
        spoken_before = self._conversation.spoken_tokens(text(event.get("item_id")))
        self._conversation.received(kind, event)
        match kind:
            case "response.created":
                yield from self._begun(event)
            case "response.done":
                yield from self._done(event.get("response"))
            case "input_audio_buffer.committed":
                yield from self._committed(event)
            case "error":
                yield from self._failed(event.get("error"))
            case _ if kind.startswith(_HEARD):
                yield from self._transcribed(kind.removeprefix(_HEARD), event)
            case _ if kind.startswith("response."):
                yield from self._output(kind, event, spoken_before)

    def closed(self, closing: Closing) -> Iterator[Seen]:
        """What is still under way broke off, or was hung up on."""
        yield from ()

    def _begun(self, event: Mapping[str, Any]) -> Iterator[Seen]:
        name = text(within(event, "response", "id"))
        self._responses.add(name)
        yield Begun(name, self._conversation.opening())

    def _output(self, kind: str, event: Mapping[str, Any], spoken_before: int) -> Iterator[Seen]:
        name = text(event.get("response_id"))
        if kind in _TEXT:
            yield from self._said(name, text(event.get("delta")))
        elif kind == "response.output_item.added":
            yield from self._said(name, text(within(event, "item", "name")))
        elif kind == "response.output_audio.delta":
            spoken = self._conversation.spoken_tokens(text(event.get("item_id")))
            more = spoken - spoken_before
            made = Quantities(output_tokens=more, output_audio_tokens=more)
            yield Shown(name, Output(estimate=made))

    def _said(self, name: str, said: str) -> Iterator[Seen]:
        """Text, which is billed beside the sound that says the same."""
        if said:
            made = Quantities(output_tokens=count_tokens(said, self._conversation.model))
            yield Shown(name, Output(said, estimate=made))

    def _done(self, response: Any) -> Iterator[Seen]:
        name, status = text(within(response, "id")), within(response, "status")
        self._responses.discard(name)
        usage, error = within(response, "usage"), within(response, "status_details", "error")
        for reported in _usage(usage):
            yield Shown(name, reported)
        if status == "failed":
            if usage is None and within(error, "code") in _UNSERVED:
                yield Shown(name, Unbilled(Quantities()))
            yield Over(name, Ended.BROKEN, _failure(error))
            return
        # It is the vendor's last word, also on what nobody let it finish.
        yield Shown(name, Completed())
        yield Over(name, Ended.ABANDONED if status == "cancelled" else Ended.DONE)

    def _committed(self, event: Mapping[str, Any]) -> Iterator[Seen]:
        model = self._conversation.transcription_model
        if model is None:
            return
        name = _transcription(event)
        self._transcriptions.add(name)
        seconds = self._conversation.heard_seconds(text(event.get("item_id")))
        length = Quantities(audio_seconds=seconds)
        yield Begun(name, Opening(length, length, model, stream=True, kind=Kind.STT))

    def _transcribed(self, kind: str, event: Mapping[str, Any]) -> Iterator[Seen]:
        name = _transcription(event)
        if kind in ("delta", "completed"):
            yield Shown(name, Output())
        if kind == "completed":
            self._transcriptions.discard(name)
            for reported in _usage(event.get("usage")):
                yield Shown(name, reported)
            yield Shown(name, Completed())
            yield Over(name, Ended.DONE)
        elif kind == "failed":
            self._transcriptions.discard(name)
            yield Over(name, Ended.BROKEN, _failure(event.get("error")))

    def _failed(self, error: Any) -> Iterator[Seen]:
        """An error of the session, or in answer to something that the client has sent."""
        if within(error, "code") in _HARMLESS:
            return
        if not self._responses:
            yield Refused(_failure(error))
        elif within(error, "type") == "server_error":
            for name in self._responses:
                yield Shown(name, Failed(_failure(error)))

    def _unreadable(self) -> Iterator[Seen]:
        failure = Failure("MalformedAnswer", "an event of the session cannot be read")
        for name in (*self._responses, *self._transcriptions):
            yield Shown(name, Failed(failure))


def _transcription(event: Mapping[str, Any]) -> str:
    return f"transcription of {text(event.get('item_id'))}"


def _usage(usage: Any) -> Iterator[Evidence]:
    """What the vendor reports: tokens, or for some that transcribe, seconds."""
    if within(usage, "type") == "duration":
        if (seconds := told_seconds(within(usage, "seconds"))) is not None:
            yield Reported(Quantities(audio_seconds=seconds))
    elif isinstance(usage, Mapping):
        yield from report(from_openai_usage(usage), Counting.GROSS)


def _failure(error: Any) -> Failure:
    code = within(error, "code") or within(error, "type")
    return Failure("APIError", f"the vendor failed: {code}" if names_a_code(code) else "it failed")
