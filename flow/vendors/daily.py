"""Daily: making a private room for a call, letting two parties in, and closing it.

The API is https://docs.daily.co/reference/rest-api.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime
from typing import Any

import httpx
from pydantic import SecretStr

from flow.errors import TransportUnavailable
from flow.kit.tls import trusted

API_URL = "https://api.daily.co/v1"
ANSWER_SECS = 5.0
PAUSES_SECS = (0.3, 1.0)

BOT, CALLER = "flow-bot", "caller"
_PASSING = frozenset({408, 429})


class Daily:
    """One Daily domain.

    Args:
        api_url: where its REST API is, with the version.
        answer_secs: how long an attempt may take.
        pauses_secs: between attempts, of which there is one more.
    """

    def __init__(
        self,
        api_key: SecretStr,
        api_url: str,
        *,
        answer_secs: float = ANSWER_SECS,
        pauses_secs: tuple[float, ...] = PAUSES_SECS,
    ) -> None:
        self._pauses_secs = pauses_secs
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
        """The answer, after as many attempts as it takes and there are.

        Asking again does no harm: a room is made, found and deleted by its name.
        """
        for pause_secs in (*self._pauses_secs, None):
            try:
                answer = await self._http.request(method, path, json=body)
            except httpx.HTTPError as error:
                problem = type(error).__name__
            else:
                if answer.status_code < 500 and answer.status_code not in _PASSING:
                    return answer
                problem = str(answer.status_code)
            if pause_secs is None:
                raise TransportUnavailable(f"Daily does not answer now ({problem}).")
            await asyncio.sleep(pause_secs)
        raise AssertionError("the last attempt returns or raises")


def _content(answer: httpx.Response, what: str) -> Any:
    """The JSON of an answer that grants what was asked for."""
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
