"""All vendors Flow needs, stood in for on loopback, with a key that works."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from flow.sandbox.openai.app import OpenAISandbox
from flow.sandbox.openai.chat import Pace
from flow.sandbox.openai.replies import SMALL_TALK, Script
from flow.sandbox.openai.transcription import hear_something
from flow.sandbox.posthog import PROJECT_KEY, PostHogSandbox
from flow.sandbox.server import Served
from flow.sandbox.speech.recognition import Ears
from flow.sandbox.unkey.app import ROOT_KEY, UnkeySandbox

API_KEY = "flow_sandbox_key_not_a_secret"
OPENAI_KEY = "sk-sandbox-not-a-secret"
TEAM = "team_sandbox"
API_ID = "api_sandbox"

# As fast as a hosted model answers a call: there is time to interrupt it.
LIFELIKE = Pace(first_token_secs=0.25, token_secs=0.02)


@dataclass(frozen=True, slots=True)
class Vendors:
    """The running stand-ins and where they are; ``api_key`` is a customer's key at Unkey."""

    openai: OpenAISandbox
    unkey: UnkeySandbox
    posthog: PostHogSandbox
    openai_url: str
    unkey_url: str
    posthog_url: str
    api_key: str = API_KEY

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a service that is to use them."""
        return {
            "OPENAI_API_KEY": OPENAI_KEY,
            "OPENAI_BASE_URL": f"{self.openai_url}/v1",
            "UNKEY_ROOT_KEY": ROOT_KEY,
            "UNKEY_API_ID": API_ID,
            "UNKEY_BASE_URL": self.unkey_url,
            "POSTHOG_API_KEY": PROJECT_KEY,
            "POSTHOG_HOST": self.posthog_url,
        }


@asynccontextmanager
async def vendors(
    replies: Script = SMALL_TALK,
    *,
    utterances: Mapping[str, bytes] | None = None,
    sample_rate: int = 16_000,
    pace: Pace = LIFELIKE,
) -> AsyncIterator[Vendors]:
    """Run the stand-ins for as long as the block lasts.

    ``replies`` is what the model says; ``utterances`` the recordings, of ``sample_rate``, that
    the ears know word for word.
    """
    hear = Ears(utterances, sample_rate).transcribe if utterances else hear_something
    openai = OpenAISandbox(replies, pace=pace, hear=hear)
    unkey, posthog = UnkeySandbox(), PostHogSandbox()
    unkey.add_key(API_KEY, name="sandbox", team_id=TEAM)
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(Served(app)) for app in (openai, unkey, posthog)]
        yield Vendors(openai, unkey, posthog, *urls)
