"""LiveKit: tokens for the two parties of a room, and closing the room.

A room is created when the first party enters it, so no request is needed before. Tokens are
described at https://docs.livekit.io/frontends/reference/tokens-grants, the server's API at
https://docs.livekit.io/reference/other/roomservice-api.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from pydantic import SecretStr

from flow.errors import TransportUnavailable
from flow.kit.tls import trusted

ANSWER_SECS = 5.0

BOT, CALLER = "flow-bot", "caller"
# The server's clock may be behind ours.
_SKEW = timedelta(seconds=30)
_API_TOKEN_SECS = 60


class LiveKit:
    """One LiveKit server or project.

    Args:
        url: where clients connect, ``wss://`` or ``ws://``; its API is at the same place.
        answer_secs: how long closing a room may take.
    """

    def __init__(
        self, url: str, api_key: str, api_secret: SecretStr, *, answer_secs: float = ANSWER_SECS
    ) -> None:
        self.url = url
        self._key = api_key
        self._secret = api_secret
        api = f"http{url.removeprefix('ws')}" if url.startswith("ws") else url
        self._http = httpx.AsyncClient(base_url=api, verify=trusted(), timeout=answer_secs)

    def token(self, name: str, identity: str, now: datetime, until: datetime) -> SecretStr:
        """A token that lets ``identity`` into the room ``name`` until then.

        It carries speech both ways and nothing else: no data, no video, no say over the room.
        """
        return self._signed(
            identity,
            {
                "roomJoin": True,
                "room": name,
                "canPublish": True,
                "canPublishSources": ["microphone"],
                "canSubscribe": True,
                "canPublishData": False,
            },
            now - _SKEW,
            until,
        )

    async def close(self, name: str) -> None:
        """Put everybody out of the room and delete it; one that is gone is left alone.

        Raises:
            TransportUnavailable: LiveKit does not do it.
        """
        request = self._request("DeleteRoom", {"roomCreate": True}, {"room": name})
        try:
            answer = await self._http.send(request)
        except httpx.HTTPError as error:
            raise TransportUnavailable(
                f"LiveKit does not answer now ({type(error).__name__})."
            ) from None
        if not answer.is_success and answer.status_code != 404:
            raise TransportUnavailable(f"LiveKit does not delete a room ({answer.status_code}).")

    def key_request(self) -> httpx.Request:
        """A request that changes nothing, and that only a good key and secret are answered."""
        return self._request("ListRooms", {"roomList": True}, {"names": ["none"]})

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def _request(self, method: str, grant: dict[str, Any], body: dict[str, Any]) -> httpx.Request:
        """A request to the server's API with a token for it alone."""
        now = datetime.now(UTC)
        until = now + timedelta(seconds=_API_TOKEN_SECS)
        token = self._signed(self._key, grant, now - _SKEW, until)
        return self._http.build_request(
            "POST",
            f"/twirp/livekit.RoomService/{method}",
            json=body,
            headers={"Authorization": f"Bearer {token.get_secret_value()}"},
        )

    def _signed(
        self, identity: str, grant: dict[str, Any], since: datetime, until: datetime
    ) -> SecretStr:
        # It brings all of cryptography along, which a service without LiveKit can do without.
        import jwt

        claims = {
            "iss": self._key,
            "sub": identity,
            "nbf": int(since.timestamp()),
            "exp": int(until.timestamp()),
            "video": grant,
        }
        return SecretStr(jwt.encode(claims, self._secret.get_secret_value(), algorithm="HS256"))
