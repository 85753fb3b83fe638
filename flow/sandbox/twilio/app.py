"""A stand-in for Twilio: it asks a webhook what to do with a call, and its calls can be hung up.

`flow.sandbox.twilio.call` makes calls with it.
"""

from __future__ import annotations

import asyncio
import hmac
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any, Literal
from uuid import uuid4
from xml.etree import ElementTree as Xml

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flow.errors import InvalidInput, Refused
from flow.sandbox.stand_in import OWN_PAGES, StandIn, exchange_of

ACCOUNT_SID = f"AC{'0' * 32}"
AUTH_TOKEN = "sandbox_auth_token"  # noqa: S105 - a stand-in's, and no secret

_ENDED = frozenset({"completed"})


@dataclass(slots=True)
class TwilioCall:
    """A call of the account's. ``hung_up`` is set when the REST API is asked to end it."""

    sid: str = field(default_factory=lambda: f"CA{uuid4().hex}")
    caller: str = "+15005550006"
    called: str = "+15005550001"
    status: Literal["in-progress", "completed"] = "in-progress"
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)

    def parameters(self) -> dict[str, str]:
        """What a Voice webhook is told of the call."""
        return {
            "AccountSid": ACCOUNT_SID,
            "ApiVersion": "2010-04-01",
            "CallSid": self.sid,
            "CallStatus": "in-progress",
            "Direction": "inbound",
            "From": self.caller,
            "To": self.called,
            "CallerCity": "",
            "CallerName": "Zoë & Söhne",
        }


@dataclass(frozen=True, slots=True)
class StreamNoun:
    """What TwiML says of a stream to be opened: where, and with which parameters."""

    url: str
    parameters: Mapping[str, str]


class TwilioSandbox(StandIn):
    """The app; its URL is the root of the REST API, and ``calls`` are the account's, by id."""

    def __init__(self, *, auth_token: str = AUTH_TOKEN) -> None:
        self.calls: dict[str, TwilioCall] = {}
        self._auth_token = auth_token
        account = f"/2010-04-01/Accounts/{ACCOUNT_SID}"
        super().__init__(
            [
                Route(f"{account}/Calls/{{sid}}.json", self._update, methods=["POST"]),
                Route(f"{account}.json", self._show_account),
                Route(f"{OWN_PAGES}/calls", self._list_calls),
            ],
            refuse,
        )

    def begin(self) -> TwilioCall:
        """A call that somebody has just answered."""
        call = TwilioCall()
        self.calls[call.sid] = call
        return call

    def signature(self, url: str, parameters: Mapping[str, str]) -> str:
        """The ``X-Twilio-Signature`` of a POST of these parameters to this URL."""
        digest = hmac.new(self._auth_token.encode(), url.encode(), sha1)
        for name in sorted(parameters):
            digest.update(f"{name}{parameters[name]}".encode())
        return b64encode(digest.digest()).decode()

    async def ask(self, http: httpx.AsyncClient, url: str, call: TwilioCall) -> StreamNoun:
        """Ask the webhook at ``url`` what to do with the call.

        Raises:
            Refused: it does not say, with the code of its problem.
            InvalidInput: what it says is not to open a stream.
        """
        parameters = call.parameters()
        headers = {"X-Twilio-Signature": self.signature(url, parameters)}
        answer = await http.post(url, data=parameters, headers=headers)
        if not answer.is_success:
            raise Refused(_code(answer), f"The webhook answered {answer.status_code}.")
        return stream_noun(answer)

    async def _update(self, request: Request) -> Response:
        request_id = exchange_of(request).request_id
        if not self._is_authorized(request):
            return refuse(401, "Authenticate", request_id)
        call = self.calls.get(request.path_params["sid"])
        if call is None:
            return refuse(404, "The requested resource was not found", request_id)
        form = await request.form()
        if form.get("Status") not in _ENDED:
            return refuse(400, "Invalid call status", request_id)
        if call.status in _ENDED:
            return refuse(404, "The requested resource was not found", request_id)
        call.hung_up.set()
        return JSONResponse({"sid": call.sid, "status": "completed"})

    async def _show_account(self, request: Request) -> Response:
        if not self._is_authorized(request):
            return refuse(401, "Authenticate", exchange_of(request).request_id)
        return JSONResponse({"sid": ACCOUNT_SID, "status": "active"})

    def _is_authorized(self, request: Request) -> bool:
        expected = b64encode(f"{ACCOUNT_SID}:{self._auth_token}".encode())
        given = request.headers.get("authorization", "").encode("latin-1")
        return hmac.compare_digest(given, b"Basic " + expected)

    async def _list_calls(self, _request: Request) -> Response:
        return JSONResponse([{"sid": c.sid, "status": c.status} for c in self.calls.values()])


def stream_noun(answer: httpx.Response) -> StreamNoun:
    """The stream that TwiML asks for; raises `InvalidInput` when it asks for anything else."""
    kind = answer.headers.get("content-type", "").partition(";")[0]
    if kind not in {"text/xml", "application/xml"}:
        raise InvalidInput(f"TwiML is XML, not {kind!r}.")
    try:
        response = Xml.fromstring(answer.content)  # noqa: S314 - a neighbour's, on this machine
    except Xml.ParseError as error:
        raise InvalidInput(f"The TwiML cannot be read: {error}.") from None
    stream = response.find("./Connect/Stream")
    if response.tag != "Response" or len(response) != 1 or stream is None:
        raise InvalidInput("The TwiML does not connect to a stream.")
    url = stream.get("url", "")
    if not url.startswith(("ws://", "wss://")) or "?" in url:
        raise InvalidInput("A stream's URL is a WebSocket's and has no query.")
    parameters = {p.get("name", ""): p.get("value", "") for p in stream.findall("Parameter")}
    return StreamNoun(url, parameters)


def refuse(status: int, detail: str, _request_id: str) -> Response:
    """Twilio's error."""
    code = {401: 20003, 404: 20404, 429: 20429}.get(status, 20000 + status)
    return JSONResponse({"code": code, "message": detail, "status": status}, status)


def _code(answer: httpx.Response) -> str:
    try:
        problem: Any = answer.json()
    except ValueError:
        problem = None
    fallback = f"http_{answer.status_code}"
    return str(problem.get("code", fallback)) if isinstance(problem, dict) else fallback
