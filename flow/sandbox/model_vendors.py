"""The stand-ins for vendors of models, and what tells a service where each is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from flow.sandbox.anthropic import AnthropicSandbox
from flow.sandbox.cartesia import hearing
from flow.sandbox.cartesia.app import CartesiaSandbox
from flow.sandbox.deepgram.app import DeepgramSandbox
from flow.sandbox.elevenlabs.app import ElevenLabsSandbox
from flow.sandbox.google.app import GoogleSandbox
from flow.sandbox.openai.app import OpenAISandbox
from flow.sandbox.openai.azure import AzureOpenAISandbox
from flow.sandbox.openai.chat import Pace
from flow.sandbox.openai.models import CHAT_MODELS
from flow.sandbox.openai.replies import Script
from flow.sandbox.openai.transcription import Hear
from flow.sandbox.speech import voice_pace
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


def _cartesia(acting: Acting) -> ModelStandIn:
    return CartesiaSandbox(
        hear=acting.hear, voice_pace=voice_pace.LIFELIKE, hearing_pace=hearing.LIFELIKE
    )


def _deepgram(acting: Acting) -> ModelStandIn:
    return DeepgramSandbox(hear=acting.hear, voice_pace=voice_pace.LIFELIKE)


def _elevenlabs(acting: Acting) -> ModelStandIn:
    return ElevenLabsSandbox(hear=acting.hear, voice_pace=voice_pace.LIFELIKE)


def _azure(acting: Acting) -> ModelStandIn:
    deployments = {name: name for name in CHAT_MODELS}
    return AzureOpenAISandbox(acting.replies, deployments=deployments, pace=acting.pace)


def _google(acting: Acting) -> ModelStandIn:
    return GoogleSandbox(acting.replies, pace=acting.pace, hear=acting.hear)


MODEL_VENDORS: Mapping[str, ModelVendor] = MappingProxyType(
    {
        "openai": ModelVendor(_openai, "OPENAI_API_KEY", "OPENAI_BASE_URL", "/v1"),
        "anthropic": ModelVendor(_anthropic, "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"),
        "cartesia": ModelVendor(_cartesia, "CARTESIA_API_KEY", "CARTESIA_BASE_URL"),
        "deepgram": ModelVendor(_deepgram, "DEEPGRAM_API_KEY", "DEEPGRAM_BASE_URL"),
        "elevenlabs": ModelVendor(_elevenlabs, "ELEVENLABS_API_KEY", "ELEVENLABS_BASE_URL"),
        "azure": ModelVendor(_azure, "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT", "/openai/v1"),
        "google": ModelVendor(_google, "GOOGLE_API_KEY", "GOOGLE_BASE_URL"),
    }
)
"""By the vendor's name in joins."""
