"""The stand-ins for vendors of models, and what tells a service where each is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from flow.sandbox.anthropic import AnthropicSandbox
from flow.sandbox.openai.app import OpenAISandbox
from flow.sandbox.openai.chat import Pace
from flow.sandbox.openai.replies import Script
from flow.sandbox.openai.transcription import Hear
from flow.sandbox.stand_in import ModelStandIn

FAKE_KEY = "sandbox-key-not-a-secret"


@dataclass(frozen=True, slots=True)
class Acting:
    """What the stand-ins do, whichever vendors they play.

    Args:
        replies: what a model says.
        hear: what is understood of the caller's sound.
        pace: how fast a model thinks.
    """

    replies: Script
    hear: Hear
    pace: Pace


@dataclass(frozen=True, slots=True)
class ModelVendor:
    """How a vendor is stood in for.

    Args:
        make: makes the stand-in.
        key: the environment variable of the API key that a service is given.
        base_url: that of the address.
        path: what the address has behind the host.
    """

    make: Callable[[Acting], ModelStandIn]
    key: str
    base_url: str
    path: str = ""

    def environment(self, url: str) -> dict[str, str]:
        """The environment of a service that is to use the stand-in at ``url``."""
        return {self.key: FAKE_KEY, self.base_url: f"{url}{self.path}"}


def _openai(acting: Acting) -> ModelStandIn:
    return OpenAISandbox(acting.replies, pace=acting.pace, hear=acting.hear)


def _anthropic(acting: Acting) -> ModelStandIn:
    return AnthropicSandbox(acting.replies, pace=acting.pace)


MODEL_VENDORS: Mapping[str, ModelVendor] = MappingProxyType(
    {
        "openai": ModelVendor(_openai, "OPENAI_API_KEY", "OPENAI_BASE_URL", "/v1"),
        "anthropic": ModelVendor(_anthropic, "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"),
    }
)
"""By the vendor's name in joins."""
