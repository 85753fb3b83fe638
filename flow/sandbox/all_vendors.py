"""All vendors Flow needs, stood in for on loopback, with a key that works."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from flow.domain.limits.permissions import ADMIN, CONTENT, TEAM_LIMITS
from flow.sandbox.bill import Line
from flow.sandbox.model_vendors import MODEL_VENDORS, Acting
from flow.sandbox.openai.app import OpenAISandbox
from flow.sandbox.openai.chat import Pace
from flow.sandbox.openai.replies import SMALL_TALK, Script
from flow.sandbox.openai.transcription import hear_something
from flow.sandbox.posthog.app import PROJECT_KEY, PostHogSandbox
from flow.sandbox.posthog.projects import PERSONAL_KEY, PROJECT_ID
from flow.sandbox.server import Served
from flow.sandbox.speech.recognition import Ears
from flow.sandbox.stand_in import ModelStandIn
from flow.sandbox.unkey.app import ROOT_KEY, UnkeySandbox

API_KEY = "flow_sandbox_key_not_a_secret"
TEAM = "team_sandbox"
API_ID = "api_sandbox"

# As fast as a hosted model answers a call: there is time to interrupt it.
LIFELIKE = Pace(first_token_secs=0.25, token_secs=0.02)


@dataclass(frozen=True, slots=True)
class Vendors:
    """The running stand-ins and where they are; ``api_key`` is a customer's key at Unkey.

    ``models`` and ``model_urls`` are those of the vendors of models, by name.
    """

    models: Mapping[str, ModelStandIn]
    unkey: UnkeySandbox
    posthog: PostHogSandbox
    model_urls: Mapping[str, str]
    unkey_url: str
    posthog_url: str
    api_key: str = API_KEY

    @property
    def openai(self) -> OpenAISandbox:
        """OpenAI's stand-in, which is always there."""
        openai = self.models["openai"]
        assert isinstance(openai, OpenAISandbox)
        return openai

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a service that is to use them."""
        found = {
            "UNKEY_ROOT_KEY": ROOT_KEY,
            "UNKEY_API_ID": API_ID,
            "UNKEY_BASE_URL": self.unkey_url,
            "POSTHOG_API_KEY": PROJECT_KEY,
            "POSTHOG_HOST": self.posthog_url,
            "POSTHOG_PERSONAL_API_KEY": PERSONAL_KEY,
            "POSTHOG_PROJECT_ID": str(PROJECT_ID),
        }
        for name, url in self.model_urls.items():
            found |= MODEL_VENDORS[name].environment(url)
        return found

    async def billed(self) -> dict[str, list[Line]]:
        """What each vendor of models bills, once none of them is serving any more."""
        return {name: await model.bill.settled() for name, model in self.models.items()}


@asynccontextmanager
async def vendors(
    replies: Script = SMALL_TALK,
    *,
    utterances: Mapping[str, bytes] | None = None,
    sample_rate: int = 16_000,
    pace: Pace = LIFELIKE,
    models: Collection[str] = (),
) -> AsyncIterator[Vendors]:
    """Run the stand-ins for as long as the block lasts.

    ``replies`` is what the model says; ``utterances`` the recordings, of ``sample_rate``, that
    the ears know word for word; ``models`` the vendors of models beside OpenAI.
    """
    hear = Ears(utterances, sample_rate).transcribe if utterances else hear_something
    acting = Acting(replies, hear, pace)
    made = {name: MODEL_VENDORS[name].make(acting) for name in dict.fromkeys(["openai", *models])}
    unkey, posthog = UnkeySandbox(), PostHogSandbox()
    # Whoever has the stand-ins is the operator of their machine.
    operator = (ADMIN, CONTENT, TEAM_LIMITS)
    unkey.add_key(API_KEY, name="sandbox", team_id=TEAM, permissions=operator)
    async with AsyncExitStack() as stack:
        urls = {name: await stack.enter_async_context(Served(app)) for name, app in made.items()}
        others = [await stack.enter_async_context(Served(app)) for app in (unkey, posthog)]
        yield Vendors(made, unkey, posthog, urls, *others)
