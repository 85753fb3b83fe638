"""Those a service asks and is asked by, as the settings name them."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

from pydantic import SecretStr

from flow.app.resources import Ground
from flow.errors import AuthUnavailable, ConfigurationError
from flow.settings import Settings
from flow.vendors.daily import Daily
from flow.vendors.endpoint import Endpoint
from flow.vendors.livekit import LiveKit
from flow.vendors.openai import openai_endpoint
from flow.vendors.quota_source import QuotaSource
from flow.vendors.rooms import Rooms
from flow.vendors.twilio import Twilio
from flow.vendors.unkey import DebugKeys, KeyVerifier
from flow.workflows.identity import made_once

SECRET_BYTES = 32
NO_KEY = "not-needed"


@dataclass(frozen=True, slots=True)
class Outside:
    """``models`` has each vendor's endpoint by the vendor's name; OpenAI's is always there."""

    models: dict[str, Endpoint]
    keys: KeyVerifier | DebugKeys
    quotas: QuotaSource | None
    telephone: Twilio | None
    rooms: Rooms


@asynccontextmanager
async def outside(ground: Ground) -> AsyncIterator[Outside]:
    """Clients of all of them, for as long as the block lasts."""
    settings = ground.settings
    async with AsyncExitStack() as stack:
        models = _models(ground)
        stack.push_async_callback(models["openai"].close)
        telephone = _telephone(settings)
        if telephone is not None:
            stack.push_async_callback(telephone.aclose)
        rooms = _rooms(settings)
        stack.push_async_callback(rooms.aclose)
        keys = _keys(ground)
        stack.push_async_callback(keys.aclose)
        with suppress(AuthUnavailable):
            # The SDK is slow at its first call, which is not to be a customer's.
            await keys.check()
        quotas = _quotas(ground)
        if quotas is not None:
            stack.push_async_callback(quotas.aclose)
        yield Outside(models, keys, quotas, telephone, rooms)


def secret_of(settings: Settings) -> bytes:
    """The signing secret: the operator's, or one made once and kept in the data folder.

    Raises:
        ConfigurationError: the file in the data folder is not whole.
    """
    if settings.secret is not None:
        return settings.secret.get_secret_value().encode()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    path = settings.data_dir / "secret"
    secret = made_once(path, lambda: secrets.token_urlsafe(SECRET_BYTES))
    if len(secret) < SECRET_BYTES:
        raise ConfigurationError(f"The file {path} holds no whole secret: remove it.")
    return secret.encode()


def _models(ground: Ground) -> dict[str, Endpoint]:
    """OpenAI, and every other vendor whose key is in the environment."""
    from flow.bot.vendors import VENDORS

    settings = ground.settings
    key = settings.openai_api_key or SecretStr(NO_KEY)
    openai = openai_endpoint(key, settings.openai_base_url)
    endpoints = {"openai": openai}
    for name, vendor in VENDORS.items():
        given = os.environ.get(vendor.key, "")
        url = os.environ.get(vendor.base_url_variable) or vendor.base_url
        if given and url and name != "openai":
            endpoints[name] = openai.elsewhere(SecretStr(given), url)
    return endpoints


def _keys(ground: Ground) -> KeyVerifier | DebugKeys:
    settings = ground.settings
    if settings.unkey_root_key is not None:
        root_key = settings.unkey_root_key.get_secret_value()
        return KeyVerifier(root_key, base_url=settings.unkey_base_url, registry=ground.registry)
    return DebugKeys(settings.debug_api_key.get_secret_value())


def _quotas(ground: Ground) -> QuotaSource | None:
    url, token = ground.settings.quota_url, ground.settings.quota_token
    return None if url is None else QuotaSource(url, token=token, registry=ground.registry)


def _telephone(settings: Settings) -> Twilio | None:
    if settings.twilio_account_sid is None or settings.twilio_auth_token is None:
        return None
    return Twilio(settings.twilio_account_sid, settings.twilio_auth_token, settings.twilio_base_url)


def _rooms(settings: Settings) -> Rooms:
    daily = livekit = None
    if settings.daily_api_key is not None:
        daily = Daily(settings.daily_api_key, settings.daily_api_url)
    url, key, secret = settings.livekit_url, settings.livekit_api_key, settings.livekit_api_secret
    if url is not None and key is not None and secret is not None:
        livekit = LiveKit(url, key, secret)
    return Rooms(daily, livekit)
