"""The variables of a call: what a join may give, and how their values fill templates.

A value lands escaped for where it stands: as it is in text that is spoken or read by a model,
percent-encoded in a URL, refused in a header that it would break, as a string in JSON. A value is
never read as a template itself.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any
from urllib.parse import quote, unquote, urlsplit

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema

from flow.domain.agents.templates import (
    NAME,
    RESERVED,
    AnswerPlaceholder,
    Placeholder,
    TemplateError,
    escape,
    parse,
    parse_node_text,
)
from flow.errors import FieldProblem, InvalidInput

MAX_VARIABLES = 100
MAX_VALUE_CHARS = 8_192
MAX_FILLED_CHARS = 32_768
"""Of one text once it is filled: a short template can name a long value many times."""
MAX_PROBLEMS = 50
"""Of those that are told; a text can name thousands of variables."""

_HEADER_TEXT = re.compile(r"[\x20-\x7e]*")
_HOST_TEXT = re.compile(r"[A-Za-z0-9.-]*")
_PATH_END = re.compile(r"[/\\]")


def _is_name(name: str) -> str:
    if not re.fullmatch(NAME, name):
        raise ValueError(
            "a variable's name has up to 64 letters, digits and _, and does not begin with a digit"
        )
    return name


def _is_value(value: Any) -> str | int | float | bool:
    if not isinstance(value, str | int | float):
        raise ValueError("must be a string, a number or a boolean")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    if isinstance(value, str):
        if len(value) > MAX_VALUE_CHARS:
            raise ValueError(f"has {len(value)} characters; at most {MAX_VALUE_CHARS} are taken")
        if "\0" in value:
            raise ValueError("must not contain the NUL character")
    return value


Variables = Annotated[
    dict[
        Annotated[str, Field(json_schema_extra={"pattern": f"^{NAME}$"}), AfterValidator(_is_name)],
        Annotated[
            str | int | float | bool,
            PlainValidator(_is_value),
            WithJsonSchema({"type": ["string", "number", "boolean"], "maxLength": MAX_VALUE_CHARS}),
        ],
    ],
    Field(max_length=MAX_VARIABLES),
]
"""The ``variables`` of a join: names and values."""


def text_of(value: str | int | float | bool) -> str:
    """The value as it is filled in: a string as it is, anything else as JSON writes it."""
    return value if isinstance(value, str) else json.dumps(value)


class Filling:
    """Fills the templates of one call, and keeps every problem, for one answer to all of them.

    What a problem was met in may not be used: call `check` before anything is.

    Args:
        variables: the values by name, those that Flow gives (``flow.date``) among them.
        reserved: the names that Flow gives values to, whether or not it has one for this call.
        assumed: the value of whatever has none, to judge templates before there are any values.
    """

    def __init__(
        self,
        variables: Mapping[str, str | int | float | bool],
        reserved: Collection[str] = (),
        assumed: str | None = None,
    ) -> None:
        self._assumed = assumed
        self._values = {name: text_of(value) for name, value in variables.items()}
        self._reserved = reserved
        self._problems: dict[FieldProblem, None] = {}

    def check(self) -> None:
        """Raise `InvalidInput` with the problems met so far, each with its field."""
        if self._problems:
            raise InvalidInput("The variables do not fit.", [*self._problems][:MAX_PROBLEMS])

    def text(self, field: str, template: str) -> str:
        """Text for people and models; ``field`` is where it stands in the request."""
        return self._filled(field, template, lambda _, value: value)

    def node_text(self, field: str, template: str) -> str:
        """Text of a node of a flow. What it gives is a template still: where it had answers of
        tools, they are filled in when the node is entered."""
        try:
            pieces = parse_node_text(template)
        except TemplateError as error:
            self.refuse(field, str(error))
            return template
        filled, literal = "", ""
        for piece in pieces:
            if isinstance(piece, AnswerPlaceholder):
                if literal.endswith("{"):
                    self.refuse(field, f"has a {{ right before {piece}: write a blank between them")
                filled += escape(literal, before_placeholder=True) + str(piece)
                literal = ""
            else:
                literal += self._value_of(field, piece)
        return self._bounded(field, template, filled + escape(literal))

    def header(self, field: str, template: str) -> str:
        """The value of an HTTP header; refuses what is not printable ASCII, line ends among it."""
        return self._filled(field, template, _for_header)

    def url(self, field: str, template: str) -> str:
        """A URL: values are percent-encoded, and cannot lead to another path or host than meant.

        In the host a value may be letters, digits, ``-`` and ``.``; in the scheme there is none.
        """
        url = self._filled(field, template, _for_url)
        # Many a server in between decodes a path before it looks for these.
        if url != template and {".", ".."} & {*_PATH_END.split(unquote(urlsplit(url).path))}:
            self.refuse(field, "a variable makes a part of the path . or .., which leads elsewhere")
        return url

    def json(self, field: str, template: Any) -> Any:
        """A JSON value: every string in it, at any depth, but no names."""
        if isinstance(template, str):
            return self.text(field, template)
        if isinstance(template, Mapping):
            return {key: self.json(f"{field}.{key}", item) for key, item in template.items()}
        if isinstance(template, list | tuple):
            return [self.json(f"{field}.{at}", item) for at, item in enumerate(template)]
        return template

    def refuse(self, field: str, message: str) -> None:
        """Note a problem, such as one that a filled text makes where it stands."""
        self._problems[FieldProblem(field, message)] = None

    def _filled(self, field: str, template: str, escaped: Callable[[str, str], str]) -> str:
        """``escaped`` gets the literal text before a value, and the value."""
        try:
            pieces = parse(template)
        except TemplateError as error:
            self.refuse(field, str(error))
            return template
        filled, before = [], ""
        for piece in pieces:
            if isinstance(piece, str):
                before += piece
                filled.append(piece)
            elif (value := self._escaped(field, piece, before, escaped)) is not None:
                filled.append(value)
        return self._bounded(field, template, "".join(filled))

    def _bounded(self, field: str, template: str, filled: str) -> str:
        if len(filled) <= MAX_FILLED_CHARS:
            return filled
        self.refuse(field, f"is longer than {MAX_FILLED_CHARS} characters once filled in")
        return template

    def _value_of(self, field: str, piece: str | Placeholder) -> str:
        if isinstance(piece, str):
            return piece
        return self._escaped(field, piece, "", lambda _, value: value) or ""

    def _escaped(
        self, field: str, wanted: Placeholder, before: str, escaped: Callable[[str, str], str]
    ) -> str | None:
        if _is_reserved(wanted.name) and wanted.name not in self._reserved:
            there_are = ", ".join(self._reserved)
            self.refuse(field, f"there is no {wanted.name!r}; there are {there_are}")
            return None
        value = self._values.get(wanted.name, wanted.default)
        if value is None:
            value = self._assumed
        if value is None:
            self.refuse(field, _missing(wanted.name))
            return None
        try:
            return escaped(before, value)
        except ValueError as error:
            self.refuse(field, f"the value of {{{{{wanted.name}}}}} {error}")
            return None


def _missing(name: str) -> str:
    default = f"{{{{{name}|default}}}}"
    if _is_reserved(name):
        return f"needs {name!r}, which is not known of this call: write {default}"
    return f"needs the variable {name!r}: give it in variables, or write {default}"


def _is_reserved(name: str) -> bool:
    return name.startswith(RESERVED)


def _for_header(_before: str, value: str) -> str:
    if not _HEADER_TEXT.fullmatch(value):
        raise ValueError("must be printable ASCII in a header, without line ends")
    return value


def _for_url(before: str, value: str) -> str:
    _, found, rest = before.partition("://")
    if not found:
        raise ValueError("cannot be the scheme of a URL, or all of it: write https://... before it")
    if any(mark in rest for mark in "/?#"):
        return quote(value, safe="")
    if not _HOST_TEXT.fullmatch(value):
        raise ValueError("may have letters, digits, - and . in the host of a URL")
    return value
