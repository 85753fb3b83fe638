"""The keys of vendors of models, telephone calls and rooms, each tried with one cheap request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import httpx

from flow.app.clients import openai_key, other_accounts
from flow.app.transport_settings import set_up
from flow.operate.doctor.answers import Asker, NoAnswer
from flow.operate.doctor.finding import Finding, ok, problem, warning
from flow.settings import Settings
from flow.vendors.openai_client import DIRECT_BASE_URL


@dataclass(frozen=True, slots=True)
class Tried:
    """A vendor with a key, and the request that tries it.

    Args:
        request: makes the request; raises `ValueError` or `httpx.InvalidURL` where what is set
            can be in none.
        variables: the environment variables of its key, in words.
        address: that of its address.
        missing: what has to be installed, in words.
    """

    name: str
    request: Callable[[], httpx.Request]
    variables: str
    address: str
    missing: str | None = None


async def key_findings(settings: Settings, asker: Asker) -> list[Finding]:
    """One finding a vendor that the settings have a key for."""
    vendors = await asyncio.to_thread(lambda: [*_of_models(settings), *_of_transports(settings)])
    return list(await asyncio.gather(*(_tried(one, asker) for one in vendors)))


def _of_models(settings: Settings) -> Iterator[Tried]:
    from flow.bot.vendors import VENDORS

    accounts = other_accounts()
    for name, vendor in VENDORS.items():
        if name == "openai":
            if settings.openai_api_key is None and settings.openai_base_url is None:
                continue
            key, url = openai_key(settings), settings.openai_base_url or DIRECT_BASE_URL
        elif name in accounts:
            key, url = accounts[name].key, accounts[name].url
        else:
            continue
        request = partial(vendor.key_request, url, key.get_secret_value())
        yield Tried(name, request, vendor.key, vendor.base_url_variable, vendor.missing)


def _of_transports(settings: Settings) -> Iterator[Tried]:
    from flow.bot.transports import TRANSPORTS

    for name, spec in TRANSPORTS.items():
        if spec.key_request is None or (values := set_up(spec, settings)) is None:
            continue
        address = (*spec.options, *spec.settings)[0]
        named = " and ".join(spec.settings)
        yield Tried(name, partial(spec.key_request, values), named, address, spec.missing)


async def _tried(one: Tried, asker: Asker) -> Finding:
    if one.missing is not None:
        return problem(one.name, "has a key, and a package of it is missing", f"{one.missing}.")
    try:
        request = one.request()
    except (ValueError, httpx.InvalidURL):
        said = "its key or address has characters that no request can have"
        return problem(one.name, said, f"See {one.variables} and {one.address}.")
    host = request.url.host
    try:
        answer = await asker.ask(one.name, request)
    except NoAnswer as error:
        said = f"{host} cannot be asked: {error}"
        return problem(one.name, said, f"See {one.address} and this machine's way out.")
    return _judged(one, host, answer)


def _judged(one: Tried, host: str, answer: httpx.Response) -> Finding:
    """What an answer says of the key. Vendors tell a bad key by 401, Google by 400; a good one that
    may not list things by 403, ElevenLabs by 401 and ``missing_permissions``."""
    status, name = answer.status_code, one.name
    if answer.is_success and _is_json(answer):
        return ok(name, f"{host} takes the key")
    if status == 403 or "missing_permissions" in answer.text:
        said = f"{host} knows the key, and lets it list nothing (HTTP {status})"
        return warning(name, said, f"Look up what the key in {one.variables} may do.")
    if status in (400, 401):
        cure = f"Set {one.variables} to a key that is in force."
        return problem(name, f"{host} refuses the key (HTTP {status})", cure)
    if status == 429:
        return warning(name, f"{host} takes no more requests now (HTTP 429)", "Look at its limits.")
    if answer.is_server_error:
        return problem(name, f"{host} fails (HTTP {status})", "Look at the vendor's status page.")
    what = f"HTTP {status}" + (", no JSON" if answer.is_success else "")
    return problem(name, f"what answers at {host} is not {name} ({what})", f"See {one.address}.")


def _is_json(answer: httpx.Response) -> bool:
    try:
        answer.json()
    except ValueError:
        return False
    return True
