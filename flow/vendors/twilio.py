"""Twilio: verifying the signatures of its requests, and the calls of an account.

https://www.twilio.com/docs/voice/api/call-resource
"""

from __future__ import annotations

import hmac
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import httpx
from pydantic import SecretStr

from flow.domain.calls.phone_call import CarrierCall, CarrierStatus, DialOrder, Price, Voicemail
from flow.errors import Unavailable
from flow.vendors.carrier_api import ANSWER_SECS, FIRST_PAUSE_SECS, TRANSIENT, CarrierApi
from flow.vendors.dialler import DialRefused, DialUnknown, NotDialled

API_URL = "https://api.twilio.com"
FOUND_AT_ONCE = 50
EVENTS = ("initiated", "ringing", "answered", "completed")

_CALL_SID = re.compile(r"CA[0-9a-f]{32}")
# https://www.twilio.com/docs/api/errors/21220
_NOT_IN_PROGRESS = 21220
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, InvalidOperation)
# What httpx raises before a request has left.
_NEVER_LEFT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_DETECTION = {Voicemail.HANG_UP: "Enable", Voicemail.LEAVE_MESSAGE: "DetectMessageEnd"}


def is_call_sid(text: str) -> bool:
    """Whether this is the id of a Twilio call. It becomes part of a URL, so no other is used."""
    return _CALL_SID.fullmatch(text) is not None


class Twilio:
    """One Twilio account, as a `flow.vendors.dialler.Dialler`.

    Args:
        base_url: where its REST API is.
        answer_secs, first_pause_secs: as for `CarrierApi`.
    """

    def __init__(
        self,
        account_sid: str,
        auth_token: SecretStr,
        base_url: str,
        *,
        answer_secs: float = ANSWER_SECS,
        first_pause_secs: float = FIRST_PAUSE_SECS,
    ) -> None:
        self._token = auth_token.get_secret_value()
        self._calls = f"{base_url}/2010-04-01/Accounts/{quote(account_sid, safe='')}/Calls"
        self._api = CarrierApi(
            "Twilio",
            account_sid,
            self._token,
            answer_secs=answer_secs,
            first_pause_secs=first_pause_secs,
        )

    def signed(self, signature: str, url: str, parameters: Iterable[tuple[str, str]]) -> bool:
        """Whether ``signature`` is Twilio's for a POST of form ``parameters`` to ``url``.

        The rule is at https://www.twilio.com/docs/usage/security#validating-requests: HMAC-SHA1
        over the whole URL followed by each parameter's name and value, in the order of names. A
        value that was sent twice under one name counts once, as in Twilio's own libraries.
        """
        signed = url + "".join(name + value for name, value in sorted(set(parameters)))
        expected = b64encode(hmac.digest(self._token.encode(), signed.encode(), "sha1"))
        return hmac.compare_digest(signature.encode(), expected)

    async def dial(self, from_number: str, to_number: str, order: DialOrder) -> CarrierCall:
        """Have a call placed; raises as `flow.vendors.dialler.Dialler.dial`.

        Twilio takes no idempotency key, so that this is one attempt.
        """
        form = _dial_form(from_number, to_number, order)
        try:
            answer = await self._api.ask_once("POST", f"{self._calls}.json", data=form)
        except _NEVER_LEFT as error:
            raise NotDialled(f"Twilio cannot be reached: {type(error).__name__}") from error
        except httpx.HTTPError as error:
            raise DialUnknown(f"Twilio did not answer: {type(error).__name__}") from error
        if answer.status_code in TRANSIENT:
            raise NotDialled(f"Twilio puts us off: {answer.status_code}")
        if answer.is_client_error:
            raise DialRefused(_refusal(answer))
        try:
            if answer.is_success:
                return _call(answer.json())
        except _UNREADABLE as error:
            raise DialUnknown("Twilio's answer cannot be read.") from error
        raise DialUnknown(f"Twilio failed: {answer.status_code}")

    async def show(self, call_id: str) -> CarrierCall | None:
        """A call of the account; ``None``: it has none of this id. Raises `Unavailable`."""
        answer = await self._asked("GET", _path(call_id))
        return None if answer is None else _read(answer, _call)

    async def find(self, from_number: str, to_number: str) -> list[CarrierCall]:
        """The latest calls that were placed between two numbers. Raises `Unavailable`."""
        parameters = {"From": from_number, "To": to_number, "PageSize": str(FOUND_AT_ONCE)}
        answer = await self._asked("GET", ".json", params=parameters)
        return [] if answer is None else _read(answer, _calls)

    async def redirect(self, call_id: str, document: str) -> bool:
        """Have a running call go on with this TwiML; ``False``: it is over.

        The media stream that the call is on ends with that. Raises `Unavailable`.
        """
        answer = await self._asked("POST", _path(call_id), data={"Twiml": document})
        return answer is not None

    async def hang_up(self, call_id: str) -> None:
        """End the call; one that is over already, or was never there, is left alone.

        Raises:
            ValueError: that is no id of a call.
            Unavailable: Twilio does not do it, after all attempts or because it refuses.
        """
        await self._asked("POST", _path(call_id), data={"Status": "completed"})

    async def aclose(self) -> None:
        """Close the connections."""
        await self._api.aclose()

    async def _asked(self, method: str, path: str, **sent: Any) -> httpx.Response | None:
        """What Twilio answers to what may be asked again; ``None``: there is no such call, or it
        is over (code 21220).

        Raises:
            Unavailable: after all attempts, or because it refuses.
        """
        answer = await self._api.ask(method, f"{self._calls}{path}", **sent)
        if answer.is_success:
            return answer
        if answer.status_code == 404 or _code(answer) == _NOT_IN_PROGRESS:
            return None
        raise Unavailable(f"Twilio did not do it: {answer.status_code}")


def _path(call_id: str) -> str:
    if not is_call_sid(call_id):
        raise ValueError("that is no id of a Twilio call")
    return f"/{call_id}.json"


def _dial_form(from_number: str, to_number: str, order: DialOrder) -> dict[str, Any]:
    form: dict[str, Any] = {
        "From": from_number,
        "To": to_number,
        "Timeout": str(order.ring_secs),
        "TimeLimit": str(order.longest_secs),
    }
    if order.document is not None:
        form["Twiml"] = order.document
    else:
        form |= {"Url": order.document_url, "Method": "POST"}
    if order.status_url is not None:
        form |= {"StatusCallback": order.status_url, "StatusCallbackMethod": "POST"}
        form["StatusCallbackEvent"] = list(EVENTS)
    if order.machine_url is not None and (detection := _DETECTION.get(order.voicemail)):
        # Without "async" the callee would hear nothing for the seconds that it takes.
        form |= {
            "MachineDetection": detection,
            "AsyncAmd": "true",
            "AsyncAmdStatusCallback": order.machine_url,
            "AsyncAmdStatusCallbackMethod": "POST",
        }
    return form


def _read(answer: httpx.Response, parse: Any) -> Any:
    try:
        return parse(answer.json())
    except _UNREADABLE as error:
        raise Unavailable("Twilio's answer cannot be read.") from error


def _calls(page: Mapping[str, Any]) -> list[CarrierCall]:
    return [_call(one) for one in page["calls"]]


def _call(fields: Mapping[str, Any]) -> CarrierCall:
    """A call resource. Its price is negative, as it is taken off the account's balance, and null
    until the call is rated; both it and the duration are strings."""
    duration = fields.get("duration")
    call_id = fields["sid"]
    if not is_call_sid(call_id):
        raise ValueError("no id of a call")
    return CarrierCall(
        call_id=call_id,
        status=CarrierStatus(fields["status"]),
        from_number=str(fields.get("from") or ""),
        to_number=str(fields.get("to") or ""),
        created_at=_time(fields.get("date_created")),
        ended_at=_time(fields.get("end_time")),
        duration_secs=None if duration in (None, "") else int(duration),
        price=_price(fields),
    )


def _price(fields: Mapping[str, Any]) -> Price | None:
    """What is no amount is no price yet: it is asked for again, and not for ever."""
    try:
        amount = abs(Decimal(str(fields.get("price"))))
    except InvalidOperation:
        return None
    currency = str(fields.get("price_unit") or "USD").upper()
    return Price(amount, currency) if amount.is_finite() else None


def _time(text: str | None) -> datetime | None:
    return parsedate_to_datetime(text) if text else None


def _refusal(answer: httpx.Response) -> str:
    """Why Twilio refuses, in its words."""
    try:
        problem = answer.json()
        return f"{problem['message']} (Twilio {problem['code']})"
    except _UNREADABLE:
        return f"Twilio answered {answer.status_code}"


def _code(answer: httpx.Response) -> int | None:
    try:
        code = answer.json().get("code")
    except _UNREADABLE:
        return None
    return code if isinstance(code, int) else None
