"""The frames a Pipecat WebSocket carries, without Pipecat.

The messages and their field numbers are those of ``pipecat/frames/frames.proto`` in
pipecat-ai 1.14.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from flow.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Audio:
    """A piece of sound: 16-bit PCM, its channels interleaved."""

    pcm16: bytes
    sample_rate: int
    channels: int = 1

    @property
    def seconds(self) -> float:
        """How long it sounds; without a rate or channels, not at all."""
        bytes_a_second = 2 * self.channels * self.sample_rate
        return len(self.pcm16) / bytes_a_second if bytes_a_second else 0.0


@dataclass(frozen=True, slots=True)
class Text:
    """Words of the bot."""

    text: str


@dataclass(frozen=True, slots=True)
class Transcription:
    """Words of the caller as the bot understood them; ``timestamp`` is ISO 8601."""

    text: str
    user_id: str = ""
    timestamp: str = ""


@dataclass(frozen=True, slots=True)
class Data:
    """A message of the application, as JSON text."""

    json: str


@dataclass(frozen=True, slots=True)
class Interruption:
    """What the bot was saying is void: what has not been played must not be."""


Frame = Audio | Text | Transcription | Data | Interruption


def encode(frame: Frame) -> bytes:
    """The frame as it goes over the wire."""
    match frame:
        case Audio(pcm16, sample_rate, channels):
            part = {"audio": pcm16, "sample_rate": sample_rate, "num_channels": channels}
            return _wire("audio", **part)
        case Text(text):
            return _wire("text", text=text)
        case Transcription(text, user_id, timestamp):
            return _wire("transcription", text=text, user_id=user_id, timestamp=timestamp)
        case Data(json):
            return _wire("message", data=json)
        case Interruption():
            return _wire("interruption")


def decode(wire: bytes) -> Frame:
    """The frame that came over the wire.

    Raises:
        InvalidInput: it is no frame, or of a kind that is not known.
    """
    message: Any = _frame_class()()
    try:
        message.ParseFromString(wire)
    except DecodeError:
        raise InvalidInput(f"{len(wire)} bytes from the service are no frame.") from None
    kind = message.WhichOneof("frame")
    part: Any = getattr(message, kind or "", None)
    match kind:
        case "audio":
            return Audio(part.audio, part.sample_rate, part.num_channels)
        case "text":
            return Text(part.text)
        case "transcription":
            return Transcription(part.text, part.user_id, part.timestamp)
        case "message":
            return Data(part.data)
        case "interruption":
            return Interruption()
    raise InvalidInput(f"{len(wire)} bytes from the service are a frame of no known kind.")


def _wire(kind: str, **fields: Any) -> bytes:
    message: Any = _frame_class()()
    part = getattr(message, kind)
    part.SetInParent()
    for name, value in fields.items():
        setattr(part, name, value)
    wire: bytes = message.SerializeToString()
    return wire


_FIELD = descriptor_pb2.FieldDescriptorProto
_NAMED = {"id": (1, _FIELD.TYPE_UINT64), "name": (2, _FIELD.TYPE_STRING)}
_PARTS = {
    "TextFrame": _NAMED | {"text": (3, _FIELD.TYPE_STRING)},
    "AudioRawFrame": _NAMED
    | {
        "audio": (3, _FIELD.TYPE_BYTES),
        "sample_rate": (4, _FIELD.TYPE_UINT32),
        "num_channels": (5, _FIELD.TYPE_UINT32),
        "pts": (6, _FIELD.TYPE_UINT64),
    },
    "TranscriptionFrame": _NAMED
    | {
        "text": (3, _FIELD.TYPE_STRING),
        "user_id": (4, _FIELD.TYPE_STRING),
        "timestamp": (5, _FIELD.TYPE_STRING),
    },
    "MessageFrame": {"data": (1, _FIELD.TYPE_STRING)},
    "InterruptionFrame": _NAMED,
}
_KINDS = ("text", "audio", "transcription", "message", "interruption")


@cache
def _frame_class() -> type[Message]:
    """Built in a pool of its own: Pipecat registers messages of the same name in the default."""
    file = descriptor_pb2.FileDescriptorProto(
        name="frames.proto", package="pipecat", syntax="proto3"
    )
    for name, fields in _PARTS.items():
        part = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            part.field.add(name=field, number=number, type=kind, label=_FIELD.LABEL_OPTIONAL)
    frame = file.message_type.add(name="Frame")
    frame.oneof_decl.add(name="frame")
    for number, (kind_name, part_name) in enumerate(zip(_KINDS, _PARTS, strict=True), start=1):
        frame.field.add(
            name=kind_name,
            number=number,
            type=_FIELD.TYPE_MESSAGE,
            type_name=f".pipecat.{part_name}",
            label=_FIELD.LABEL_OPTIONAL,
            oneof_index=0,
        )
    # Some versions of its stubs leave the pool untyped.
    pool: Any = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("pipecat.Frame"))
