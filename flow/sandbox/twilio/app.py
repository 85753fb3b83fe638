"""A stand-in for Twilio: it places calls, asks webhooks what to do with them, and bills them.

`flow.sandbox.twilio.call` talks on its calls. What Twilio does by itself later (it rings, somebody
answers, the call ends, its price is known) happens here when a test says so.
"""

from __future__ import annotations

import asyncio
import hmac
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha1
from typing import Any
from urllib.parse import parse_qs
from xml.etree import ElementTree as Xml

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flow.errors import InvalidInput, Refused
from flow.sandbox.stand_in import OWN_PAGES, StandIn, exchange_of
from flow.sandbox.twilio.rest_api import ACCOUNT_SID, API_VERSION, OVER, Status, TwilioCall

AUTH_TOKEN = "sandbox_auth_token"  # noqa: S105 - a stand-in's, and no secret
PAGE_SIZE = 50


@dataclass(frozen=True, slots=True)
class StreamNoun:
    """What TwiML says of a stream to be opened: where, and with which parameters."""

    url: str
    parameters: Mapping[str, str]


class TwilioSandbox(StandIn):
    """The app; its URL is the root of the REST API, and ``calls`` are the account's, by id.

    Args:
        outcomes: what becomes at once of a call that is placed to a number: it is ``in-progress``,
            ``busy`` and so on. Any other number goes on ringing until somebody takes the call.
        refused: the numbers that Twilio will not dial, with its code and message.
    """

    def __init__(
        self,
        *,
        auth_token: str = AUTH_TOKEN,
        outcomes: Mapping[str, Status] | None = None,
        refused: Mapping[str, tuple[int, str]] | None = None,
    ) -> None:
        self.calls: dict[str, TwilioCall] = {}
        self.outcomes = dict(outcomes or {})
        self.refused = dict(refused or {})
        self._placed: asyncio.Queue[TwilioCall] = asyncio.Queue()
        self._auth_token = auth_token
        account = f"/{API_VERSION}/Accounts/{ACCOUNT_SID}"
        super().__init__(
            [
                Route(f"{account}/Calls.json", self._create, methods=["POST"]),
                Route(f"{account}/Calls.json", self._list),
                Route(f"{account}/Calls/{{sid}}.json", self._update, methods=["POST"]),
                Route(f"{account}/Calls/{{sid}}.json", self._show),
                Route(f"{account}.json", self._show_account),
                Route(f"{OWN_PAGES}/calls", self._list_calls),
            ],
            refuse,
        )

    def begin(self, **known: Any) -> TwilioCall:
        """A call that somebody has just answered; ``known``: fields of it."""
        call = TwilioCall(**known)
        self.calls[call.sid] = call
        return call

    async def placed(self) -> TwilioCall:
        """The next call that is placed and rings."""
        return await self._placed.get()

    async def answer(
        self, http: httpx.AsyncClient, call: TwilioCall, answered_by: str | None = None
    ) -> StreamNoun:
        """Somebody takes a call that rings: its webhook is asked for the stream.

        Raises:
            Refused, InvalidInput: as for `ask`.
        """
        call.status, call.answered_by = "in-progress", answered_by
        url = call.first("Url")
        assert url is not None, "only a call that is to ask a webhook is answered so"
        noun = await self.ask(http, url, call)
        await self.tell(http, call)
        if answered_by is not None and (detected := call.first("AsyncAmdStatusCallback")):
            told = {
                "AccountSid": ACCOUNT_SID,
                "CallSid": call.sid,
                "AnsweredBy": answered_by,
                "MachineDetectionDuration": "2400",
            }
            await self.post(http, detected, told)
        return noun

    async def tell(self, http: httpx.AsyncClient, call: TwilioCall) -> None:
        """Tell the call's status callback how it is now, as far as it wants to know."""
        event = "completed" if call.status in OVER else _EVENTS.get(call.status, call.status)
        url = call.first("StatusCallback")
        if url is None or event not in call.asked.get("StatusCallbackEvent", ["completed"]):
            return
        told = {**call.parameters(), "CallDuration": str(call.seconds)}
        await self.post(http, url, told)

    async def post(
        self, http: httpx.AsyncClient, url: str, parameters: Mapping[str, str]
    ) -> httpx.Response:
        """A signed request."""
        headers = {"X-Twilio-Signature": self.signature(url, parameters)}
        return await http.post(url, data=dict(parameters), headers=headers)

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
        answer = await self.post(http, url, call.parameters())
        if not answer.is_success:
            raise Refused(_code(answer), f"The webhook answered {answer.status_code}.")
        return stream_noun(answer)

    async def _create(self, request: Request) -> Response:
        if (refusal := self._unauthorized(request)) is not None:
            return refusal
        form = parse_qs((await request.body()).decode(), keep_blank_values=True)
        sent = {name: values[0] for name, values in form.items()}
        if (problem := self._form_problem(sent)) is not None:
            return _error(400, *problem)
        call = TwilioCall(
            caller=sent["From"],
            called=sent["To"],
            status="queued",
            direction="outbound-api",
            asked=form,
            documents=form.get("Twiml", []),
        )
        self.calls[call.sid] = call
        shown = call.resource()
        outcome = self.outcomes.get(call.called)
        if outcome is None:
            call.status = "ringing"
            self._placed.put_nowait(call)
        elif outcome in OVER:
            call.end(outcome)
        else:
            call.status = outcome
        return JSONResponse(shown, 201)

    def _form_problem(self, sent: Mapping[str, str]) -> tuple[int, str] | None:
        if not sent.get("To", "").startswith(("+", "sip:")):
            return 21211, f"The 'To' number {sent.get('To')} is not a valid phone number."
        if sent["To"] in self.refused:
            return self.refused[sent["To"]]
        if not sent.get("From", "").startswith("+"):
            return 21212, f"The 'From' number {sent.get('From')} is not a valid phone number."
        if ("Url" in sent) == ("Twiml" in sent):
            return 21205, "Url parameter is required."
        return None

    async def _list(self, request: Request) -> Response:
        if (refusal := self._unauthorized(request)) is not None:
            return refusal
        wanted = request.query_params
        found = [
            call
            for call in reversed(self.calls.values())
            if wanted.get("To", call.called) == call.called
            and wanted.get("From", call.caller) == call.caller
        ]
        size = int(wanted.get("PageSize", PAGE_SIZE))
        page = [call.resource() for call in found[:size]]
        return JSONResponse({"calls": page, "page": 0, "page_size": size, "next_page_uri": None})

    async def _show(self, request: Request) -> Response:
        if (refusal := self._unauthorized(request)) is not None:
            return refusal
        call = self.calls.get(request.path_params["sid"])
        return _not_found() if call is None else JSONResponse(call.resource())

    async def _update(self, request: Request) -> Response:
        if (refusal := self._unauthorized(request)) is not None:
            return refusal
        call = self.calls.get(request.path_params["sid"])
        if call is None:
            return _not_found()
        form = await request.form()
        document = form.get("Twiml")
        if document is None and form.get("Status") != "completed":
            return _error(400, 21204, "Invalid call status")
        if call.status in OVER:
            return _error(400, 21220, "Call is not in-progress. Cannot redirect.")
        if document is not None:
            Xml.fromstring(str(document))  # noqa: S314 - a neighbour's, on this machine
            call.documents.append(str(document))
            call.hung_up.set()
        else:
            call.end("completed" if call.status == "in-progress" else "canceled")
        return JSONResponse(call.resource())

    async def _show_account(self, request: Request) -> Response:
        refusal = self._unauthorized(request)
        return refusal or JSONResponse({"sid": ACCOUNT_SID, "status": "active"})

    def _unauthorized(self, request: Request) -> Response | None:
        expected = b64encode(f"{ACCOUNT_SID}:{self._auth_token}".encode())
        given = request.headers.get("authorization", "").encode("latin-1")
        if hmac.compare_digest(given, b"Basic " + expected):
            return None
        return refuse(401, "Authenticate", exchange_of(request).request_id)

    async def _list_calls(self, _request: Request) -> Response:
        return JSONResponse([{"sid": c.sid, "status": c.status} for c in self.calls.values()])


_EVENTS = {"queued": "initiated", "in-progress": "answered"}


def stream_noun(answer: httpx.Response) -> StreamNoun:
    """The stream that TwiML asks for; raises `InvalidInput` when it asks for anything else."""
    response = document_of(answer)
    stream = response.find("./Connect/Stream")
    if len(response) != 1 or stream is None:
        raise InvalidInput("The TwiML does not connect to a stream.")
    url = stream.get("url", "")
    if not url.startswith(("ws://", "wss://")) or "?" in url:
        raise InvalidInput("A stream's URL is a WebSocket's and has no query.")
    parameters = {p.get("name", ""): p.get("value", "") for p in stream.findall("Parameter")}
    return StreamNoun(url, parameters)


def document_of(answer: httpx.Response) -> Xml.Element:
    """The ``<Response>`` of a webhook's answer; raises `InvalidInput` when it is none."""
    kind = answer.headers.get("content-type", "").partition(";")[0]
    if kind not in {"text/xml", "application/xml"}:
        raise InvalidInput(f"TwiML is XML, not {kind!r}.")
    try:
        response = Xml.fromstring(answer.content)  # noqa: S314 - a neighbour's, on this machine
    except Xml.ParseError as error:
        raise InvalidInput(f"The TwiML cannot be read: {error}.") from None
    if response.tag != "Response":
        raise InvalidInput("TwiML is a <Response>.")
    return response


def refuse(status: int, detail: str, _request_id: str) -> Response:
    """Twilio's error."""
    return _error(status, {401: 20003, 404: 20404, 429: 20429}.get(status, 20000 + status), detail)


def _not_found() -> Response:
    return _error(404, 20404, "The requested resource was not found")


def _error(status: int, code: int, message: str) -> Response:
    more = f"https://www.twilio.com/docs/errors/{code}"
    return JSONResponse(
        {"code": code, "message": message, "more_info": more, "status": status}, status
    )


def _code(answer: httpx.Response) -> str:
    try:
        problem: Any = answer.json()
    except ValueError:
        problem = None
    fallback = f"http_{answer.status_code}"
    return str(problem.get("code", fallback)) if isinstance(problem, dict) else fallback
