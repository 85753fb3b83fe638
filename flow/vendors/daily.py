"""Daily: creating a private room for a call, tokens for its two parties, and deleting it.

The API is https://docs.daily.co/reference/rest-api.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import Any

import httpx
import stamina
from pydantic import SecretStr

from flow.errors import TransportUnavailable
from flow.kit.tls import trusted

API_URL = "https://api.daily.co/v1"
ANSWER_SECS = 5.0
# Pauses of 0.3 and 0.9 s.
ATTEMPTS = 3
FIRST_PAUSE_SECS = 0.3
PAUSE_FACTOR = 3.0

BOT, CALLER = "flow-bot", "caller"
_TRANSIENT = frozenset({408, 429})


class _Transient(TransportUnavailable):
    """A failure that may be over at the next attempt."""


class Daily:
    """One Daily domain.

    Args:
        api_url: where its REST API is, with the version.
        answer_secs: how long an attempt may take.
        first_pause_secs: between the first two of three attempts.
    """

    def __init__(
        self,
        api_key: SecretStr,
        api_url: str,
        *,
        answer_secs: float = ANSWER_SECS,
        first_pause_secs: float = FIRST_PAUSE_SECS,
    ) -> None:
        self._first_pause_secs = first_pause_secs
        self._http = httpx.AsyncClient(
            base_url=api_url,
            verify=trusted(),
            headers={"Authorization": f"Bearer {api_key.get_secret_value()}"},
            timeout=answer_secs,
        )

    async def open(self, name: str, lasts_until: datetime) -> str:
        """The URL of the private room ``name`` for two, made if it is not there.

        Everybody is put out of it at ``lasts_until``, when Daily also forgets it.

        Raises:
            TransportUnavailable: Daily does not make it.
        """
        body = {
            "name": name,
            "privacy": "private",
            "properties": {
                "exp": _seconds(lasts_until),
                "eject_at_room_exp": True,
                "max_participants": 2,
                "start_video_off": True,
            },
        }
        answer = await self._ask("POST", "/rooms", body)
        if answer.status_code == 400:
            # That a room of this name exists is one of the reasons for a 400.
            known = await self._ask("GET", f"/rooms/{name}")
            answer = known if known.is_success else answer
        return _text_in(_content(answer, "open a room"), "url", "open a room")

    async def token(self, name: str, until: datetime, *, owner: bool) -> SecretStr:
        """A token that lets one party into the room until then; the ``owner`` is the bot.

        Raises:
            TransportUnavailable: Daily does not give one.
        """
        properties = {
            "room_name": name,
            "exp": _seconds(until),
            "is_owner": owner,
            "user_id": BOT if owner else CALLER,
        }
        answer = await self._ask("POST", "/meeting-tokens", {"properties": properties})
        return SecretStr(_text_in(_content(answer, "give a token"), "token", "give a token"))

    async def put_out(self, name: str, who: str) -> None:
        """Put one party out of the room, who need not be in it.

        Raises:
            TransportUnavailable: Daily does not answer.
        """
        await self._ask("POST", f"/rooms/{name}/eject", {"user_ids": [who]})

    async def close(self, name: str) -> None:
        """Put the caller out of the room and delete it; one that is gone is left alone.

        Raises:
            TransportUnavailable: Daily does not delete it.
        """
        with suppress(TransportUnavailable):
            # Daily does not say that deleting a room ends the meeting in it.
            await self.put_out(name, CALLER)
        answer = await self._ask("DELETE", f"/rooms/{name}")
        if answer.status_code != 404:
            _content(answer, "delete a room")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """The answer, which is no transient failure, after up to three attempts.

        Repeating is safe: a room is created, found and deleted by its name.
        """
        async for attempt in stamina.retry_context(
            on=_Transient,
            attempts=ATTEMPTS,
            timeout=None,
            wait_initial=self._first_pause_secs,
            wait_exp_base=PAUSE_FACTOR,
            wait_jitter=0,
        ):
            with attempt:
                return await self._ask_once(method, path, body)
        raise AssertionError("the last attempt returns or raises")

    async def _ask_once(self, method: str, path: str, body: Any) -> httpx.Response:
        try:
            answer = await self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            problem = type(error).__name__
            raise _Transient(f"Daily does not answer now ({problem}).") from error
        if answer.status_code >= 500 or answer.status_code in _TRANSIENT:
            raise _Transient(f"Daily does not answer now ({answer.status_code}).")
        return answer


def _content(answer: httpx.Response, what: str) -> Any:
    """The JSON of a successful answer."""
    if not answer.is_success:
        raise TransportUnavailable(f"Daily does not {what} ({answer.status_code}).")
    try:
        return answer.json()
    except ValueError:
        raise TransportUnavailable(f"Daily does not {what}: its answer is no JSON.") from None


def _text_in(content: Any, name: str, what: str) -> str:
    value = content.get(name) if isinstance(content, dict) else None
    if not isinstance(value, str) or not value:
        raise TransportUnavailable(f"Daily does not {what}: its answer has no {name}.")
    return value


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
