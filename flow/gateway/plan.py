"""What a request asks for, and what a vendor is to be sent for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flow.domain.gateway import operations
from flow.domain.gateway.operations import Operation
from flow.domain.gateway.request import GatewayRequest
from flow.errors import FieldProblem, InvalidInput, Refused
from flow.gateway.bodies import MODEL, Body, FormBody, JsonBody
from flow.gateway.vendor_models import Target
from flow.metering.evidence import NOTHING
from flow.metering.taps.answer import opened
from flow.metering.wires.reader import FREE, Exchange, Free, HttpRequest

LARGE_BODY_BYTES = 32 * 1024
"""What takes longer to parse and to count than the loop should be held up."""

Saved = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Makes the fields that save mode sends of those that were asked for."""

LONGEST_MODEL = 200
"""Bytes; the ledger takes names of up to 512, of which the vendor may say another."""
MOST_TOKENS = 100_000_000
"""What a larger limit counts as."""

_OUTPUT_LIMITS = {
    operations.CHAT: ("max_completion_tokens", "max_tokens"),
    operations.RESPONSES: ("max_output_tokens",),
    operations.MESSAGES: ("max_tokens",),
}
"""By what an operation limits its answer. One of another operation limits nothing."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as its caller sent it."""

    operation: Operation
    body: Body
    size: int
    content_type: str

    @property
    def model(self) -> str:
        """The model it names.

        Raises:
            InvalidInput: it names none.
        """
        said = self.body.fields.get(MODEL)
        name = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise InvalidInput(
                "The request names no model.",
                [FieldProblem(MODEL, "must be a model such as openai/gpt-4.1")],
            )
        if len(name.encode()) > LONGEST_MODEL:
            raise InvalidInput(
                "The request's model has too long a name.",
                [FieldProblem(MODEL, f"must have at most {LONGEST_MODEL} bytes")],
            )
        return name.strip()

    @property
    def service_tier(self) -> str | None:
        """The service tier that it asks for."""
        said = self.body.fields.get("service_tier")
        return said if isinstance(said, str) else None

    @property
    def most_output(self) -> int | None:
        """The limit that it sets to the tokens of its answer, of all choices together.

        Where it sets two, vendors differ in which one holds. What is no positive number is none:
        some vendors refuse it, and to others -1 or 0 means as much as there is.
        """
        fields = self.body.fields
        given = [fields.get(name) for name in _OUTPUT_LIMITS.get(self.operation, ())]
        limits = [_count(limit) for limit in given if limit is not None]
        known = [limit for limit in limits if limit is not None]
        if not known or len(known) < len(limits):
            return None
        return min(max(known) * (_count(fields.get("n")) or 1), MOST_TOKENS)


def _count(said: Any) -> int | None:
    """A positive number of JSON, whole or not; ``None``: it is none."""
    is_number = isinstance(said, int | float) and not isinstance(said, bool)
    return int(min(said, MOST_TOKENS)) if is_number and said >= 1 else None


class Sending:
    """A request as a vendor is to get it.

    Args:
        request: what a reader sees of it, with the body.
        exchange: what reads its first attempt.
        asked_for: the model that was meant, where it is not the one that is sent.
    """

    def __init__(
        self,
        target: Target,
        request: HttpRequest,
        exchange: Exchange | Free,
        asked_for: str | None = None,
    ) -> None:
        self.target = target
        self.request = request
        self.asked_for = asked_for
        self.estimate = NOTHING if isinstance(exchange, Free) else exchange.opening.estimate
        self._unused: Exchange | Free | None = exchange

    def exchange(self) -> Exchange | Free:
        """What reads the next attempt: each has one of its own."""
        exchange, self._unused = self._unused, None
        return exchange or _opened(self.target, self.request)


async def read_request(operation: Operation, request: GatewayRequest, body: bytes) -> Asked:
    """The request in a body.

    Raises:
        Refused: ``malformed_request`` or ``unsupported_media_type``.
        InvalidInput: it asks for what cannot be accounted for.
    """
    if (request.header(b"content-encoding") or "identity").lower() != "identity":
        raise Refused("unsupported_media_type", "Send the body without a content encoding.")
    content_type = "application/json"  # whatever it is called: it has been read as that
    parsed: Body
    if operation.takes_form:
        content_type = _only_content_type(request)
        parsed = FormBody.parse(body, content_type)
    elif len(body) > LARGE_BODY_BYTES:
        parsed = await asyncio.to_thread(JsonBody.parse, body)
    else:
        parsed = JsonBody.parse(body)
    if parsed.fields.get("background"):
        raise InvalidInput(
            "A response in the background is not served: nobody would see what it used.",
            [FieldProblem("background", "must be false")],
        )
    return Asked(operation, parsed, len(body), content_type)


def _only_content_type(request: GatewayRequest) -> str:
    found = [value for name, value in request.headers if name == b"content-type"]
    if len(found) > 1:
        raise Refused("malformed_request", "The header Content-Type is there twice.")
    return found[0].decode("latin-1").strip() if found else ""


async def sending(
    asked: Asked,
    target: Target,
    *,
    meant: Target | None = None,
    saved: Saved | None = None,
) -> Sending:
    """What a vendor is to be sent.

    Args:
        meant: the model that was asked for, where this is one to fall back to.
        saved: changes the fields, for save mode.

    Raises:
        Refused: ``malformed_request``: nothing could account for it.
    """
    if asked.size > LARGE_BODY_BYTES:
        return await asyncio.to_thread(_sending, asked, target, meant or target, saved)
    return _sending(asked, target, meant or target, saved)


def _sending(
    asked: Asked,
    target: Target,
    meant: Target,
    saved: Saved | None,
) -> Sending:
    api = target.upstream.apis.operations[asked.operation]
    changes = _changes(asked, target.model, asks_for_usage=api.asks_for_usage)
    fields = {**asked.body.fields, **changes}
    if saved is not None:
        shaped = saved(fields)
        changes |= {n: v for n, v in shaped.items() if n not in fields or fields[n] is not v}
        fields = dict(shaped)
    body = asked.body.changed(changes)
    operation = asked.operation
    headers = {"content-type": asked.content_type}
    known = None if operation.takes_form else fields
    request = HttpRequest("POST", api.path, headers, body, json=known)
    exchange = _opened(target, request)
    if (exchange is FREE) is not operation.is_free:
        raise _unreadable()
    sent = target.model if operation.takes_form else str(fields[MODEL])
    return Sending(target, request, exchange, _meant(meant, target, sent))


def _opened(target: Target, request: HttpRequest) -> Exchange | Free:
    exchange = opened(target.upstream.wire(request.path), request)
    if exchange is None:
        raise _unreadable()
    return exchange


def _unreadable() -> Refused:
    # What cannot be read cannot be accounted for.
    return Refused("malformed_request", "The request cannot be read.")


def _meant(meant: Target, target: Target, sent: str) -> str | None:
    if meant.upstream is not target.upstream:
        return str(meant.name)
    return None if meant.model == sent else meant.model


def _changes(asked: Asked, model: str, *, asks_for_usage: bool) -> dict[str, Any]:
    """The fields that are changed for every request: the vendor's own name of the model, and that
    a stream of chat completions reports what it used.

    The chunk that reports it is passed on to those who have not asked for it, as other gateways
    do: to leave it out, every stream would have to be held back to the end of each of its events.
    """
    fields = asked.body.fields
    said = fields.get(MODEL)
    changes: dict[str, Any] = {}
    if said not in (model, model.encode()):
        changes[MODEL] = model
    if asks_for_usage and fields.get("stream"):
        options = fields.get("stream_options")
        known = options if isinstance(options, dict) else {}
        if known.get("include_usage") is not True:
            changes["stream_options"] = {**known, "include_usage": True}
    return changes
