"""Clients of outside services, built from the settings."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

from pydantic import SecretStr

from flow.app.resources import Resources
from flow.errors import AuthUnavailable, ConfigurationError
from flow.settings import Settings
from flow.vendors.daily import Daily
from flow.vendors.key_verifier import DebugKeys, KeyVerifier
from flow.vendors.livekit import LiveKit
from flow.vendors.meeting_rooms import MeetingRooms
from flow.vendors.model_endpoint import Endpoint
from flow.vendors.openai_client import openai_endpoint
from flow.vendors.quota_source import QuotaSource
from flow.vendors.twilio import Twilio
from flow.workflows.identity import made_once

SECRET_BYTES = 32
NO_KEY = "not-needed"


@dataclass(frozen=True, slots=True)
class Clients:
    """Clients of outside services; ``None`` where the settings name none.

    ``models`` maps a model vendor's name to its endpoint; OpenAI's is always there.
    """

    models: dict[str, Endpoint]
    keys: KeyVerifier | DebugKeys
    quotas: QuotaSource | None
    telephone: Twilio | None
    rooms: MeetingRooms


@asynccontextmanager
async def open_clients(resources: Resources) -> AsyncIterator[Clients]:
    """Open the clients; leaving the block closes them."""
    settings = resources.settings
    async with AsyncExitStack() as stack:
        models = _model_endpoints(resources)
        stack.push_async_callback(models["openai"].close)
        telephone = _telephone(settings)
        if telephone is not None:
            stack.push_async_callback(telephone.aclose)
        rooms = _rooms(settings)
        stack.push_async_callback(rooms.aclose)
        keys = _keys(resources)
        stack.push_async_callback(keys.aclose)
        with suppress(AuthUnavailable):
            # The SDK is slow at its first call: better now than in a customer's join.
            await keys.check()
        quotas = _quotas(resources)
        if quotas is not None:
            stack.push_async_callback(quotas.aclose)
        yield Clients(models, keys, quotas, telephone, rooms)


def secret_of(settings: Settings) -> bytes:
    """The secret that signs join tokens: the operator's, or one kept in the data folder.

    Raises:
        ConfigurationError: the file in the data folder is truncated.
    """
    if settings.secret is not None:
        return settings.secret.get_secret_value().encode()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    path = settings.data_dir / "secret"
    secret = made_once(path, lambda: secrets.token_urlsafe(SECRET_BYTES))
    if len(secret) < SECRET_BYTES:
        raise ConfigurationError(f"The file {path} holds no whole secret: remove it.")
    return secret.encode()


def _model_endpoints(resources: Resources) -> dict[str, Endpoint]:
    """The endpoints of OpenAI and of every other vendor whose key is in the environment."""
    from flow.bot.vendors import VENDORS

    settings = resources.settings
    key = settings.openai_api_key or SecretStr(NO_KEY)
    openai = openai_endpoint(key, settings.openai_base_url)
    endpoints = {"openai": openai}
    for name, vendor in VENDORS.items():
        api_key = os.environ.get(vendor.key, "")
        url = os.environ.get(vendor.base_url_variable) or vendor.base_url
        if api_key and url and name != "openai":
            endpoints[name] = openai.elsewhere(SecretStr(api_key), url)
    return endpoints


def _keys(resources: Resources) -> KeyVerifier | DebugKeys:
    settings = resources.settings
    if settings.unkey_root_key is not None:
        root_key = settings.unkey_root_key.get_secret_value()
        return KeyVerifier(root_key, base_url=settings.unkey_base_url, registry=resources.registry)
    return DebugKeys(settings.debug_api_key.get_secret_value())


def _quotas(resources: Resources) -> QuotaSource | None:
    url, token = resources.settings.quota_url, resources.settings.quota_token
    return None if url is None else QuotaSource(url, token=token, registry=resources.registry)


def _telephone(settings: Settings) -> Twilio | None:
    if settings.twilio_account_sid is None or settings.twilio_auth_token is None:
        return None
    return Twilio(settings.twilio_account_sid, settings.twilio_auth_token, settings.twilio_base_url)


def _rooms(settings: Settings) -> MeetingRooms:
    daily = livekit = None
    if settings.daily_api_key is not None:
        daily = Daily(settings.daily_api_key, settings.daily_api_url)
    url, key, secret = settings.livekit_url, settings.livekit_api_key, settings.livekit_api_secret
    if url is not None and key is not None and secret is not None:
        livekit = LiveKit(url, key, secret)
    return MeetingRooms(daily, livekit)
