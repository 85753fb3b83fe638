"""Calls of customers' HTTP tools: one signed request, and a JSON answer of bounded size.

A request is repeated only where that cannot double an effect: before anything of it was sent, or
with a method that is idempotent (RFC 9110, section 9.2.2). Every repeat carries the same
``webhook-id`` and ``Idempotency-Key``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NoReturn
from uuid import UUID

import httpx2

from flow.domain.insights.insight_schema import MAX_DEPTH, is_deeper
from flow.vendors.public_http import CONNECT_SECS
from flow.vendors.webhook_resolver import NotPublic
from flow.vendors.webhook_signing import signature_headers

MAX_ANSWER_BYTES = 65_536
PAUSES = (0.2, 0.8)
AGENT = "Flow-Tools/1"

IN_QUERY = frozenset({"GET", "DELETE"})
"""Methods whose requests have no body: their arguments are in the query."""
_IDEMPOTENT = frozenset({"GET", "PUT", "DELETE"})
_PASSING = frozenset({502, 503, 504})


class ToolCallFailed(Exception):
    """A tool did not answer as it must. The message is for the model, and names no secret.

    ``was_sent`` says whether the tool may have had its effect.
    """

    def __init__(self, why: str, *, was_sent: bool, status: int | None = None) -> None:
        super().__init__(why)
        self.was_sent = was_sent
        self.status = status


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """One use of a tool, as it is sent.

    ``body`` is for methods that have one, and is signed. Of others the query is.
    """

    id: UUID
    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: str = field(repr=False)
    secrets: Sequence[str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ToolReply:
    """A tool's answer: the status, and the JSON of its body (``None`` for an empty one)."""

    status: int
    result: Any


def _now() -> datetime:
    return datetime.now(UTC)


class ToolClient:
    """Calls tools. Its caller bounds the time that a call takes, repeats and all.

    Args:
        network: a `flow.vendors.public_http.PublicTransport`, or what stands in for one.
        now: the time that signatures carry.
    """

    def __init__(
        self, network: httpx2.AsyncBaseTransport, *, now: Callable[[], datetime] = _now
    ) -> None:
        self._network = network
        self._now = now

    async def call(self, request: ToolRequest) -> ToolReply:
        """Send the request, and read the answer of the first attempt that must not be repeated.

        Raises:
            ToolCallFailed: there was none, or none that can be used.
        """
        for pause in PAUSES:
            try:
                return await self._attempt(request)
            except ToolCallFailed as error:
                is_passing = error.status is None or error.status in _PASSING
                may_repeat = not error.was_sent or request.method in _IDEMPOTENT
                if not (is_passing and may_repeat):
                    raise
                if isinstance(error.__cause__, NotPublic | httpx2.InvalidURL):
                    raise
            await asyncio.sleep(pause)
        return await self._attempt(request)

    async def _attempt(self, request: ToolRequest) -> ToolReply:
        try:
            sent = self._request(request)
        except httpx2.InvalidURL as error:
            raise ToolCallFailed("the tool's address is not a URL", was_sent=False) from error
        try:
            response = await self._network.handle_async_request(sent)
        except NotPublic as error:
            why = "the tool's address is not public, and was not called"
            raise ToolCallFailed(why, was_sent=False) from error
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise ToolCallFailed("the tool cannot be reached", was_sent=False) from error
        except (httpx2.HTTPError, OSError) as error:
            raise ToolCallFailed("the tool broke off the connection", was_sent=True) from error
        try:
            return await _read(response)
        finally:
            await response.aclose()

    def _request(self, request: ToolRequest) -> httpx2.Request:
        has_body, url = request.method not in IN_QUERY, httpx2.URL(request.url)
        # The query as it goes over the wire, where more is escaped than whoever wrote it has.
        signed = request.body if has_body else url.query.decode("ascii")
        headers = {
            **request.headers,
            **signature_headers(request.id, self._now(), signed, request.secrets),
            "idempotency-key": str(request.id),
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": AGENT,
            **({"content-type": "application/json"} if has_body else {}),
        }
        return httpx2.Request(
            request.method,
            url,
            headers=headers,
            content=request.body.encode() if has_body else None,
            extensions={"timeout": httpx2.Timeout(None, connect=CONNECT_SECS).as_dict()},
        )


async def _read(response: httpx2.Response) -> ToolReply:
    status = response.status_code
    if 300 <= status < 400:
        _fail("the tool answered with a redirect, which is not followed", status)
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        _fail("the tool's answer is compressed, which was not asked for", status)
    body = await _body(response)
    if not 200 <= status < 300:
        said = _short_json(body)
        _fail(f"the tool answered with HTTP {status}{said and f': {said}'}", status)
    if not body.strip():
        return ToolReply(status, None)
    try:
        result = json.loads(body, parse_constant=_refuse)
        if is_deeper(result, MAX_DEPTH):
            raise ValueError
    except (ValueError, RecursionError):
        _fail("the tool's answer is not JSON, or too deeply nested", status)
    return ToolReply(status, result)


async def _body(response: httpx2.Response) -> bytes:
    status, body = response.status_code, bytearray()
    try:
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                _fail(f"the tool's answer has more than {MAX_ANSWER_BYTES} bytes", status)
    except (httpx2.HTTPError, OSError) as error:
        raise ToolCallFailed("the tool broke off its answer", was_sent=True) from error
    return bytes(body)


def _short_json(body: bytes) -> str:
    """An error's body as far as a model may be told of it: JSON of moderate size."""
    try:
        text = json.dumps(json.loads(body, parse_constant=_refuse), ensure_ascii=False)
    except (ValueError, RecursionError):
        return ""
    return text if len(text) <= 1_000 else ""


def _fail(why: str, status: int) -> NoReturn:
    raise ToolCallFailed(why, was_sent=True, status=status)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
