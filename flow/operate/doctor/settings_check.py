"""The settings, and the files they name: everything that is wrong, at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flow.app.asgi import check
from flow.app.bots import bot_defaults
from flow.app.clients import other_accounts
from flow.app.transport_settings import check_transports
from flow.domain.pricing.pricer import Pricer
from flow.domain.products.product_file import read_products
from flow.errors import FlowError
from flow.operate.doctor.finding import Finding, ok, problem
from flow.settings import Settings

NAME = "settings"


def settings_findings(settings: Settings) -> list[Finding]:
    """One finding a problem, or one that all is well. What is wrong stops a start."""
    checks: list[Callable[[Settings], object]] = [
        check,
        check_transports,
        _prices,
        _defaults,
        _own_bots,
    ]
    found = [finding for one in checks for finding in _problems(one, settings)]
    return found or [ok(NAME, "complete, and nothing contradicts itself")]


def _problems(look: Callable[[Settings], object], settings: Settings) -> Iterator[Finding]:
    try:
        look(settings)
    except FlowError as error:
        for sentence in error.for_operator.splitlines():
            yield problem(NAME, *_parted(sentence))


def _parted(sentence: str) -> tuple[str, str | None]:
    """The finding and the cure: ``NAME is missing: set it.``"""
    said, colon, cure = sentence.partition(": ")
    # What is not of our own making may have a colon anywhere.
    is_ours = colon and said.endswith((" missing", " together", " only"))
    return (f"{said}.", f"{cure[:1].upper()}{cure[1:]}") if is_ours else (sentence, None)


def _prices(settings: Settings) -> None:
    Pricer.read(settings.prices_file)


def _defaults(settings: Settings) -> None:
    """The products file, and whether the services that joins get by default can be had."""
    from flow.bot.join_defaults import Resolver
    from flow.bot.vendors import vendors_by_part

    products = read_products(settings.products_file, vendors_by_part())
    reachable = {"openai", *other_accounts()}
    Resolver(products, bot_defaults(settings), reachable, settings.turn_detection)


def _own_bots(settings: Settings) -> None:
    from flow.bot.custom.bot_functions import find_bots

    find_bots(settings.bots)
