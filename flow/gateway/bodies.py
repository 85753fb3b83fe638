"""Request bodies whose fields can be read, and changed without touching the rest.

Two parsers could read a field that is there twice differently, so that what was checked is not what
the vendor does: such a body is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any, AnyStr, Protocol

from flow.errors import Refused

MODEL = "model"

_SPACE = re.compile(r"[ \t\n\r]*")
_FORM_NAME = re.compile(r"[\w.\[\]-]+", re.ASCII)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_decoder = json.JSONDecoder()
Span = tuple[int, int]


class Body(Protocol):
    """A body as it came."""

    @property
    def fields(self) -> Mapping[str, Any]:
        """What it says at its top."""

    def changed(self, fields: Mapping[str, Any]) -> bytes:
        """The body with these fields in place of its own, or after them."""


@dataclass(frozen=True, slots=True)
class JsonBody:
    """An object of JSON. ``spans`` says where in ``text`` the value of each field stands."""

    text: str
    fields: dict[str, Any]
    spans: dict[str, Span]
    end: int

    @classmethod
    def parse(cls, body: bytes) -> JsonBody:
        """The object in ``body``.

        Raises:
            Refused: ``malformed_request``: it is none, or says a field twice.
        """
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError:
            raise _malformed("The request body is not UTF-8.") from None
        try:
            return cls._parse(text)
        except RecursionError:
            raise _malformed("The request body is nested too deeply.") from None
        except (ValueError, IndexError):  # also of a number with too many digits
            raise _malformed("The request body is not a JSON object.") from None

    @classmethod
    def _parse(cls, text: str) -> JsonBody:
        fields: dict[str, Any] = {}
        spans: dict[str, Span] = {}
        at = _expect(text, _skip(text, 0), "{")
        if text[at := _skip(text, at)] != "}":
            while True:
                _expect(text, at, '"')
                name, at = _decoder.raw_decode(text, at)
                start = _skip(text, _expect(text, _skip(text, at), ":"))
                value, at = _decoder.raw_decode(text, start)
                if name in fields:
                    raise _twice(name)
                fields[name], spans[name] = value, (start, at)
                if text[at := _skip(text, at)] == "}":
                    break
                at = _skip(text, _expect(text, at, ","))
        if _skip(text, at + 1) != len(text):
            raise json.JSONDecodeError("Extra data", text, at)
        _refuse_variants(fields)
        return cls(text, fields, spans, at)

    def changed(self, fields: Mapping[str, Any]) -> bytes:
        """The body with these fields in place of its own, or after them."""
        if not fields:
            return self.text.encode()
        edits = {self.spans[n]: _dumped(v) for n, v in fields.items() if n in self.spans}
        new = [f"{_dumped(n)}:{_dumped(v)}" for n, v in fields.items() if n not in self.spans]
        if new:
            edits[self.end, self.end] = ("," if self.fields else "") + ",".join(new)
        return _edited(self.text, edits).encode()


@dataclass(frozen=True, slots=True)
class FormBody:
    """A ``multipart/form-data`` body (RFC 7578), its values, of files too, as bytes."""

    body: bytes
    fields: dict[str, bytes]
    spans: dict[str, Span]

    @classmethod
    def parse(cls, body: bytes, content_type: str) -> FormBody:
        """The form in ``body``.

        Raises:
            Refused: ``malformed_request``: it is none, or says a field twice.
        """
        whole = Message()
        whole["content-type"] = content_type
        boundary = whole.get_boundary()
        if boundary and _times(whole, "content-type", "boundary") > 1:
            raise _malformed("The form has two boundaries.")
        if whole.get_content_type() != "multipart/form-data" or not boundary:
            raise Refused("unsupported_media_type", "Send the body as multipart/form-data.")
        fields: dict[str, bytes] = {}
        spans: dict[str, Span] = {}
        for start, end in _parts(body, b"--" + boundary.encode("latin-1", "replace")):
            head = body.find(b"\r\n\r\n", start, end)
            name = _name_in(body[start:head]) if head >= 0 else None
            if name is None:
                raise _malformed(
                    "A part of the form has no name, or one that can be read in two ways."
                )
            if name in fields and name == MODEL:
                raise _twice(name)
            fields[name], spans[name] = body[head + 4 : end], (head + 4, end)
        _refuse_variants(fields)
        return cls(body, fields, spans)

    def changed(self, fields: Mapping[str, Any]) -> bytes:
        """The form with these values in place of those of its own fields."""
        edits = {self.spans[name]: str(value).encode() for name, value in fields.items()}
        return _edited(self.body, edits)


def _parts(body: bytes, mark: bytes) -> Iterable[Span]:
    """Where each part of a form begins and ends, without the line ends that belong to the marks."""
    if body.count(b"\n" + mark) != body.count(b"\r\n" + mark):
        # Some parsers take a line's end without a carriage return for one.
        raise _malformed("The lines of the form do not end in CR LF.")
    at = 0 if body.startswith(mark) else body.find(b"\r\n" + mark) + 2
    if at == 1:
        raise _malformed("The form has no part.")
    while not body.startswith(b"--", start := at + len(mark)):
        start = body.find(b"\r\n", start) + 2
        end = body.find(b"\r\n" + mark, start)
        if start == 1 or end < 0:
            raise _malformed("The form breaks off.")
        yield start, end
        at = end + 2


def _name_in(head: bytes) -> str | None:
    part = Message()
    for line in head.split(b"\r\n"):
        name, _, value = line.decode("utf-8", "replace").partition(":")
        if name.strip().lower() == "content-disposition":
            part["content-disposition"] = value.strip()
    found = part.get_param("name", header="content-disposition")
    is_plain = isinstance(found, str) and _FORM_NAME.fullmatch(found)
    said = len(part.get_all("content-disposition", []))
    if not is_plain or said > 1 or _times(part, "content-disposition", "name") > 1:
        return None
    return str(found)


def _times(part: Message, header: str, name: str) -> int:
    """How often a header has a parameter, in any of the forms of RFC 2231."""
    said = part.get(header, "").replace(" ", "").lower()
    return len(re.findall(rf";\s*{name}\*?\d*\*?=", _QUOTED.sub('""', said)))


def _edited(text: AnyStr, edits: Mapping[Span, AnyStr]) -> AnyStr:
    """The text with each span replaced."""
    parts: list[AnyStr] = []
    at = 0
    for (start, end), new in sorted(edits.items()):
        parts += [text[at:start], new]
        at = end
    parts.append(text[at:])
    return text[:0].join(parts)


def _refuse_variants(fields: Mapping[str, Any]) -> None:
    """Some parsers do not mind the case of a name."""
    if MODEL in fields and sum(name.lower() == MODEL for name in fields) > 1:
        raise _twice(MODEL)


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _expect(text: str, at: int, character: str) -> int:
    if text[at] != character:
        raise json.JSONDecodeError(f"Expecting {character}", text, at)
    return at + 1


def _dumped(value: Any) -> str:
    # In ASCII, which takes halves of characters as well.
    return json.dumps(value, separators=(",", ":"))


def _twice(name: str) -> Refused:
    return _malformed(f"The request body says {name[:100]!r} twice.")


def _malformed(message: str) -> Refused:
    return Refused("malformed_request", message)
