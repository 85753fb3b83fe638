"""How long a body may take as a whole, how old an answer about a key may be, what a join holds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from flow.api.body_limits import MAX_BODY_BYTES, RequestSize
from flow.errors import Refused
from flow.vendors.unkey_client import VerifiedKey
from tests.api.conftest import ServeApi


class Drips:
    """A body that comes in parts of some bytes, one every few milliseconds."""

    def __init__(self, parts: int, *, size: int = 1, every_secs: float = 0.01) -> None:
        self.left = parts
        self._size = size
        self._every_secs = every_secs

    async def __call__(self) -> Message:
        await asyncio.sleep(self._every_secs)
        self.left -= 1
        return {"type": "http.request", "body": b"a" * self._size, "more_body": self.left > 0}


async def reads_all(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass


async def unheard(message: Message) -> None:
    raise AssertionError("nobody answers")


async def sent(receive: Receive) -> None:
    scope: Scope = {"type": "http", "path": "/api/threads", "headers": []}
    await RequestSize(reads_all)(scope, receive, unheard)


async def test_a_body_in_drips_is_bounded_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flow.api.body_limits.BODY_SECS", 0.1)
    drips = Drips(1_000)
    with pytest.raises(Refused) as refused:
        await sent(drips)
    assert refused.value.code == "request_timeout"
    assert drips.left > 900


async def test_a_body_in_drips_that_is_whole_in_time_is_taken() -> None:
    await sent(Drips(5))


@pytest.mark.parametrize(("more", "is_taken"), [(0, True), (1, False)])
async def test_a_body_in_parts_is_counted_as_a_whole(more: int, is_taken: bool) -> None:
    whole = Drips(4, size=MAX_BODY_BYTES // 4, every_secs=0)
    extra: Iterator[Message] = iter(
        [{"type": "http.request", "body": b"a", "more_body": True}] * more
    )

    async def receive() -> Message:
        return next(extra, None) or await whole()

    if is_taken:
        await sent(receive)
        return
    with pytest.raises(Refused) as refused:
        await sent(receive)
    assert refused.value.code == "payload_too_large"


class AnyKey:
    """Takes every key for good, and keeps how old the answer was allowed to be."""

    def __init__(self) -> None:
        self.max_ages: list[float] = []

    async def verify(self, secret: str, *, max_age_secs: float) -> VerifiedKey:
        self.max_ages.append(max_age_secs)
        return VerifiedKey("key_1", "team_a", "A key", frozenset(), {}, 0.0)

    async def check(self) -> None:
        return

    async def aclose(self) -> None:
        return


@pytest.mark.parametrize(
    ("method", "path", "max_age_secs"),
    [
        ("GET", "/api/threads", 30),
        ("HEAD", "/api/threads", 30),
        ("OPTIONS", "/api/threads", 30),
        ("GET", "/api/nothing", 30),
        ("POST", "/api/bot/join", 10),
        ("PUT", "/api/nothing", 10),
        ("PATCH", "/api/nothing", 10),
        ("DELETE", "/api/nothing", 10),
    ],
)
async def test_what_changes_something_asks_for_a_fresher_answer_about_its_key(
    serve_api: ServeApi, method: str, path: str, max_age_secs: float
) -> None:
    keys = AnyKey()
    api = await serve_api(keys=keys)
    await api.client.request(method, path)
    assert keys.max_ages == [max_age_secs]


class Watched:
    """The database, and what joins were admitted by."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self.admissions: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def join_thread(self, *args: Any, **named: Any) -> Any:
        self.admissions.append(named["admission"])
        return await self._database.join_thread(*args, **named)


async def test_what_a_join_holds_outlives_its_token_by_a_minute(
    serve_api: ServeApi, database: Any
) -> None:
    watched = Watched(database)
    api = await serve_api(database=watched, join_token_secs=77)
    await api.join()
    (admission,) = watched.admissions
    assert admission.waiting_secs == 77 + 60
