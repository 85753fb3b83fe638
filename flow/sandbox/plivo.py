"""A stand-in for Plivo: it asks a webhook what to do with a call, streams it, and hangs it up."""

from __future__ import annotations

import asyncio
import hmac
import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4
from xml.etree import ElementTree as Xml

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flow.sandbox.callers import mulaw
from flow.sandbox.stand_in import StandIn, exchange_of

AUTH_ID = "MA" + "X" * 18
AUTH_TOKEN = "sandbox_plivo_token"  # noqa: S105 - a stand-in's, and no secret
NONCE = "05429567804466091622"


@dataclass(slots=True)
class PlivoCall:
    """A call of the account's. ``hung_up`` is set when the REST API is asked to end it."""

    uuid: str = field(default_factory=lambda: str(uuid4()))
    caller: str = "4930222222"
    called: str = "4930111111"
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)

    def parameters(self) -> dict[str, str]:
        """What an answer URL is told of the call; numbers have no ``+``."""
        return {
            "CallUUID": self.uuid,
            "From": self.caller,
            "To": self.called,
            "Direction": "inbound",
            "Event": "StartApp",
            "CallStatus": "ringing",
        }


class PlivoSandbox(StandIn):
    """The app; its URL is the root of the REST API, and ``calls`` are the account's, by id."""

    def __init__(self) -> None:
        self.calls: dict[str, PlivoCall] = {}
        path = f"/v1/Account/{AUTH_ID}/Call/{{uuid}}/"
        super().__init__([Route(path, self._hang_up, methods=["DELETE"])], refuse)

    def begin(self, **known: Any) -> PlivoCall:
        """A call that comes in; ``known``: fields of it."""
        call = PlivoCall(**known)
        self.calls[call.uuid] = call
        return call

    async def ask(self, http: httpx.AsyncClient, url: str, call: PlivoCall) -> httpx.Response:
        """Ask the answer URL what to do with the call."""
        parameters = call.parameters()
        headers = {
            "X-Plivo-Signature-V3": signature(url, parameters),
            "X-Plivo-Signature-V3-Nonce": NONCE,
        }
        return await http.post(url, data=parameters, headers=headers)

    async def _hang_up(self, request: Request) -> Response:
        request_id = exchange_of(request).request_id
        expected = b"Basic " + b64encode(f"{AUTH_ID}:{AUTH_TOKEN}".encode())
        given = request.headers.get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(given, expected):
            return refuse(401, "authentication failed", request_id)
        call = self.calls.get(request.path_params["uuid"])
        if call is None or call.hung_up.is_set():
            return refuse(404, "not found", request_id)
        call.hung_up.set()
        return Response(status_code=204)


class PlivoStream:
    """What Plivo sends on the stream that ``<Stream>`` asks for, and what it hears there."""

    def __init__(self, call: PlivoCall, document: bytes) -> None:
        stream = Xml.fromstring(document).find("./Stream")  # noqa: S314 - a neighbour's
        assert stream is not None, "the answer does not connect to a stream"
        assert stream.get("bidirectional") == "true"
        assert stream.get("contentType") == "audio/x-mulaw;rate=8000"
        self.url = (stream.text or "").strip()
        headers = stream.get("extraHeaders", "")
        assert len(headers) <= 512, "extra headers are 512 bytes at most"
        name, _, value = headers.partition("=")
        assert value.isalnum(), "extra headers hold letters and digits alone"
        self._headers = json.dumps({f"X-PH-{name}": value})
        self._call = call
        self._id = str(uuid4())

    def start(self, **changed: Any) -> str:
        """The first message."""
        told = {
            "callId": self._call.uuid,
            "streamId": self._id,
            "accountId": "100",
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000},
        }
        message = {"sequenceNumber": 0, "event": "start", "start": told | changed}
        return json.dumps(message | {"extra_headers": self._headers})

    def media(self, pcm16: bytes) -> str:
        """Sound of the caller."""
        payload = b64encode(mulaw.encode(pcm16)).decode()
        return self._said("media", {"track": "inbound", "chunk": 1, "payload": payload})

    def dtmf(self, digit: str) -> str:
        """A key that was pressed."""
        return self._said("dtmf", {"track": "inbound", "digit": digit})

    def stop(self) -> str:
        """The last: the call is over."""
        return json.dumps({"event": "stop", "streamId": self._id})

    def heard(self, wire: str | bytes) -> str:
        """The kind of a message of the service's: ``playAudio`` or ``clearAudio``."""
        message = json.loads(wire)
        assert message["streamId"] == self._id
        assert message["event"] in {"playAudio", "clearAudio"}
        if message["event"] == "playAudio":
            assert message["media"]["contentType"] == "audio/x-mulaw"
        return str(message["event"])

    def _said(self, event: str, told: Mapping[str, Any]) -> str:
        return json.dumps({"event": event, event: told, "streamId": self._id})


def signature(url: str, parameters: Mapping[str, str]) -> str:
    """The ``X-Plivo-Signature-V3`` of a POST of these parameters to this URL, with `NONCE`."""
    parts = urlsplit(url)
    signed = f"{parts.scheme}://{parts.netloc}{parts.path}?"
    if parts.query:
        signed += "&".join(f"{k}={v}" for k, v in sorted(parse_qsl(parts.query))) + "."
    signed += "".join(f"{name}{parameters[name]}" for name in sorted(parameters))
    digest = hmac.new(AUTH_TOKEN.encode(), f"{signed}.{NONCE}".encode(), sha256).digest()
    return b64encode(digest).decode()


def refuse(status: int, detail: str, request_id: str) -> Response:
    """Plivo's error."""
    return JSONResponse({"api_id": request_id, "error": detail}, status)
