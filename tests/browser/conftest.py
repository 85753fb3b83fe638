"""A browser with a page of another origin than the service's, which holds Pipecat's own clients."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import subprocess
import wave
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route

from flow.api.pages import DevPages
from flow.sandbox.all_vendors import vendors
from flow.sandbox.openai.chat import Pace
from flow.sandbox.reconcile import reconcile_all
from flow.sandbox.server import Served
from flow.sandbox.speech.synthesis import recordings, synthesize
from tests.api.conftest import api, serve_api
from tests.calls.conftest import Serving, running, template
from tests.calls.webrtc import host_address
from tests.chromium import CHROMIUM, chromium
from tests.conftest import copied

__all__ = ["api", "serve_api", "template"]

HERE = Path(__file__).parent
NODE = HERE.parent / "node" / "node_modules"
SPEECH_RATE = 48_000
WAIT_SECS = 30
QUESTION = "Are you open today?"
SECOND = "What about Sunday?"
UTTERANCES = [QUESTION, SECOND]
REPLIES = [
    "Yes, we are. Our doors are open until six o'clock this evening, and tomorrow from nine.",
    "Closed on Sundays.",
]
FLAGS = [
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    # A spare address that ICE is given is one of the loopback interface.
    "--allow-loopback-in-peer-connection",
]
HTML = "<!doctype html><title>A page with a bot</title><script src=/page.js></script>"


@dataclass(frozen=True, slots=True)
class Talk:
    """The page, with a client that connects over one transport."""

    page: Page

    async def run(self, script: str, *values: Any) -> Any:
        """What ``script``, a function, makes of ``values``; promises are awaited."""
        async with asyncio.timeout(WAIT_SECS):
            return await self.page.evaluate(f"(values) => ({script})(...values)", values)

    async def connect(self, params: dict[str, Any]) -> None:
        """Connect, which is done when the bot says that it is ready."""
        await self.run("(params) => talk.client.connect(params)", params)

    async def say(self, words: str) -> None:
        """Say something into the microphone, to its end."""
        async with asyncio.timeout(WAIT_SECS):
            await say(self.page, words)

    async def events(self, *names: str) -> list[Any]:
        """The data of these events so far, as they came."""
        seen = await self.page.evaluate("talk.events")
        return [one["data"] for one in seen if one["event"] in names]

    async def until(self, event: str, times: int = 1) -> list[Any]:
        """The data of an event once it has come so often."""
        condition = "([event, times]) => talk.events.filter(e => e.event === event).length >= times"
        await self.page.wait_for_function(
            condition, arg=[event, times], timeout=WAIT_SECS * 1000, polling=50
        )
        return await self.events(event)

    async def until_bot_said(self, words: str) -> None:
        """Return when the bot has said this to its end."""
        condition = """(words) => talk.events.some(
            ({event, data}) => event === "botOutput" && data.spoken_status === "completed"
                && data.text.includes(words))"""
        await self.page.wait_for_function(
            condition, arg=words, timeout=WAIT_SECS * 1000, polling=50
        )


@pytest.fixture(scope="session")
def page_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's script, with the clients in it."""
    if not (NODE / "@pipecat-ai").is_dir():
        pytest.skip("Pipecat's clients are missing: `make node` installs them, with npm")
    bundle = tmp_path_factory.mktemp("page") / "page.js"
    subprocess.run(
        [NODE / ".bin" / "esbuild", HERE / "page" / "page.js", "--bundle", f"--outfile={bundle}"],
        env=os.environ | {"NODE_PATH": str(NODE)},
        check=True,
        capture_output=True,
        timeout=60,
    )
    return bundle


SESSION = pytest_asyncio.fixture(scope="session", loop_scope="session")


@SESSION
async def browser() -> AsyncIterator[Browser]:
    """The system's Chromium."""
    if CHROMIUM is None:
        pytest.skip("Chromium is missing (Debian: apt install chromium)")
    async with chromium(*FLAGS) as browser:
        yield browser


@dataclass(frozen=True, slots=True)
class House:
    """A service, and a page at ``site``, an origin which may use it; ``other`` may not."""

    served: Serving
    site: str
    other: str

    async def conserved(self) -> None:
        """Hold the ledger rows of all threads so far against the vendors' bills."""
        threads = (await self.served.http.get("/api/threads")).json()["threads"]
        rows = [
            row
            for thread in threads
            for row in await self.served.service.database.get_thread_usage(
                UUID(thread["workflow_thread_id"])
            )
        ]
        bills = await self.served.vendors.billed()
        assert [one for one in reconcile_all(rows, bills) if not one.agrees] == []


@SESSION
async def house(
    postgres: str, template: str, page_script: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    """One service for all tests: each makes threads of its own."""
    pace = Pace(first_token_secs=0.05, token_secs=0.005)
    with copied(postgres, template) as database, pytest.MonkeyPatch.context() as environment:
        async with (
            site(page_script) as url,
            site(page_script) as other,
            vendors(REPLIES, utterances=recordings(UTTERANCES), pace=pace) as standing,
            running(
                database,
                tmp_path_factory.mktemp("data"),
                environment,
                standing,
                cors_origins=url,
                dev_pages=DevPages(standing.api_key),
                recordings_url=f"file://{tmp_path_factory.mktemp('recordings')}",
            ) as served,
        ):
            yield House(served, url, other)


@pytest.fixture(scope="session", autouse=True)
def _address() -> Iterator[None]:
    with host_address():
        yield


@asynccontextmanager
async def site(script: Path) -> AsyncIterator[str]:
    """The page's own server: an origin that is not the service's."""

    async def page(_: Request) -> Response:
        return HTMLResponse(HTML)

    async def bundle(_: Request) -> Response:
        return FileResponse(script)

    routes: Sequence[Route] = [Route("/", page), Route("/page.js", bundle)]
    async with Served(Starlette(routes=routes)) as url:
        yield url


async def say(page: Page, words: str) -> None:
    """Say something into the microphone of ``page/microphone.js``, to its end."""
    sound = base64.b64encode(_recording(words)).decode()
    await page.evaluate("(recording) => say(recording)", sound)


def _recording(words: str) -> bytes:
    """A WAV file in which this is said."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(SPEECH_RATE)
        sound.writeframes(synthesize(words, sample_rate=SPEECH_RATE))
    return file.getvalue()


@asynccontextmanager
async def talking(browser: Browser, url: str, transport: str) -> AsyncIterator[Talk]:
    """A page at ``url`` whose client is about to connect over a transport."""
    page = await browser.new_page()
    await page.goto(url)
    await page.evaluate("(name) => talk.prepare(name)", transport)
    yield Talk(page)
    await page.close()
