"""Clients of outside services, built from the settings."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import SecretStr

from flow.app.shared_resources import Resources
from flow.app.transport_settings import check_transports, set_up
from flow.errors import AuthUnavailable, ConfigurationError
from flow.settings import Settings
from flow.vendors.key_verification_cache import DebugKeys, KeyVerifier
from flow.vendors.meeting_rooms import MeetingRooms
from flow.vendors.model_endpoint import Endpoint
from flow.vendors.openai_client import openai_endpoint
from flow.vendors.quota_cache import QuotaSource
from flow.vendors.unkey_admin import UnkeyAdmin
from flow.workflows.process_identity import made_once

if TYPE_CHECKING:
    from flow.bot.transports.spec import Carrier

SECRET_BYTES = 32
NO_KEY = "not-needed"


@dataclass(frozen=True, slots=True)
class Clients:
    """Clients of outside services; ``None`` where the settings name none.

    ``models`` maps a model vendor's name to its endpoint; OpenAI's is always there.
    ``carriers`` are the telephone companies, by the name of their transport.
    """

    models: dict[str, Endpoint]
    keys: KeyVerifier | DebugKeys
    unkey: UnkeyAdmin | None
    quotas: QuotaSource | None
    carriers: dict[str, Carrier]
    rooms: MeetingRooms


@asynccontextmanager
async def open_clients(resources: Resources) -> AsyncIterator[Clients]:
    """Open the clients; leaving the block closes them.

    Raises:
        ConfigurationError: some settings of a transport are missing, and some are not.
    """
    settings = resources.settings
    async with AsyncExitStack() as stack:
        models = _model_endpoints(resources)
        stack.push_async_callback(models["openai"].close)
        check_transports(settings)
        carriers = _carriers(settings)
        for carrier in carriers.values():
            stack.push_async_callback(carrier.aclose)
        rooms = _rooms(settings)
        stack.push_async_callback(rooms.aclose)
        keys = _keys(resources)
        stack.push_async_callback(keys.aclose)
        with suppress(AuthUnavailable):
            # The SDK is slow at its first call: better now than in a customer's join.
            await keys.check()
        unkey = _unkey(settings)
        if unkey is not None:
            stack.push_async_callback(unkey.aclose)
        quotas = _quotas(resources)
        if quotas is not None:
            stack.push_async_callback(quotas.aclose)
        yield Clients(models, keys, unkey, quotas, carriers, rooms)


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


@dataclass(frozen=True, slots=True)
class Account:
    """An account at a vendor of models: its API key, and where its API is."""

    key: SecretStr
    url: str


def openai_key(settings: Settings) -> SecretStr:
    """The key for OpenAI; a server of the operator's own may need none."""
    return settings.openai_api_key or SecretStr(NO_KEY)


def other_accounts() -> dict[str, Account]:
    """The accounts that the environment has at vendors beside OpenAI, by the vendor's name."""
    from flow.bot.vendors import VENDORS

    found = {}
    for name, vendor in VENDORS.items():
        api_key = os.environ.get(vendor.key, "")
        url = os.environ.get(vendor.base_url_variable) or vendor.base_url
        if api_key and url and name != "openai":
            found[name] = Account(SecretStr(api_key), url)
    return found


def _model_endpoints(resources: Resources) -> dict[str, Endpoint]:
    """The endpoints of OpenAI and of every other vendor whose key is in the environment."""
    settings = resources.settings
    openai = openai_endpoint(openai_key(settings), settings.openai_base_url)
    others = {
        name: openai.elsewhere(account.key, account.url)
        for name, account in other_accounts().items()
    }
    return {"openai": openai, **others}


def _keys(resources: Resources) -> KeyVerifier | DebugKeys:
    settings = resources.settings
    if settings.unkey_root_key is not None:
        root_key = settings.unkey_root_key.get_secret_value()
        return KeyVerifier(root_key, base_url=settings.unkey_base_url, registry=resources.registry)
    return DebugKeys(settings.debug_api_key.get_secret_value())


def _unkey(settings: Settings) -> UnkeyAdmin | None:
    """Where operators' keys make and revoke others."""
    if settings.unkey_root_key is None:
        return None
    root_key = settings.unkey_root_key.get_secret_value()
    return UnkeyAdmin(root_key, settings.unkey_api_id, settings.unkey_base_url)


def _quotas(resources: Resources) -> QuotaSource | None:
    settings = resources.settings
    if settings.quota_url is None:
        return None
    return QuotaSource(
        settings.quota_url,
        token=settings.quota_token,
        registry=resources.registry,
        reuse_secs=settings.quota_reuse_secs,
    )


def _carriers(settings: Settings) -> dict[str, Carrier]:
    """The telephone companies that the settings name, by the name of their transport."""
    from flow.bot.transports import TRANSPORTS, of_kind
    from flow.bot.transports.spec import MediaStreamSpec

    return {
        name: spec.carrier(values)
        for name, spec in of_kind(MediaStreamSpec, TRANSPORTS).items()
        if (values := set_up(spec, settings)) is not None
    }


def _rooms(settings: Settings) -> MeetingRooms:
    from flow.bot.transports import TRANSPORTS, of_kind
    from flow.bot.transports.spec import RoomSpec

    return MeetingRooms(
        {
            name: spec.provider(values)
            for name, spec in of_kind(RoomSpec, TRANSPORTS).items()
            if (values := set_up(spec, settings)) is not None
        }
    )
