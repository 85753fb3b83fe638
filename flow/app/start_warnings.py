"""Warnings at the start of a service: protections and parts that are off or bypassed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import structlog

from flow.domain.products.product import ModelName
from flow.settings import Settings
from flow.vendors.posthog_flags import COST_CONTROLS

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StartWarning:
    """One log line: its event, what follows from it, and what to set to have it otherwise."""

    event: str
    meaning: str
    setting: str


def warn(settings: Settings, unpriced: Mapping[str, ModelName]) -> None:
    """Log each warning, once a start.

    Args:
        unpriced: the configured models without a price, by where they are set.
    """
    for warning in start_warnings(settings, unpriced):
        logger.warning(warning.event, meaning=warning.meaning, setting=warning.setting)


def start_warnings(settings: Settings, unpriced: Mapping[str, ModelName]) -> Iterator[StartWarning]:
    """Every warning that these settings deserve; parameters as for `warn`."""
    yield from _of_keys_and_limits(settings)
    yield from _of_parts(settings)
    if unpriced:
        named = ", ".join(f"{name} ({where})" for where, name in unpriced.items())
        yield StartWarning(
            "models_unpriced",
            f"no price is known for {named}: what they use has no cost, so no budget can hold it,"
            " and a join of a key with a budget is refused if it would use one",
            'FLOW_PRICES_FILE, with their prices; or unpriced = "allow" in FLOW_PRODUCTS_FILE',
        )


def _of_keys_and_limits(settings: Settings) -> Iterator[StartWarning]:
    if settings.unkey_root_key is None:
        yield StartWarning(
            "debug_keys",
            "no Unkey: every caller with the debug key is let in; never expose this service",
            "UNKEY_ROOT_KEY, and FLOW_DEBUG=false",
        )
    if settings.quota_url is None:
        yield StartWarning(
            "quota_source_absent",
            "no billing service is asked whether a team may go on: only the budgets and quotas in"
            " the database hold",
            "FLOW_QUOTA_URL",
        )
    if settings.cost_controls is not None:
        yield StartWarning(
            "feature_flag_bypassed",
            f"save mode is {settings.cost_controls} for every key that wants it, whatever the"
            f" feature flag {COST_CONTROLS} says",
            "FLOW_COST_CONTROLS, to nothing",
        )
    if settings.webhooks_allow_private:
        yield StartWarning(
            "private_webhooks_allowed",
            "joins may name webhooks and tools at any address, those of your own network too",
            "FLOW_WEBHOOKS_ALLOW_PRIVATE=false",
        )


def _of_parts(settings: Settings) -> Iterator[StartWarning]:
    if settings.posthog_api_key is None:
        flag = f"; the feature flag {COST_CONTROLS} is unknown, so save mode is off"
        yield StartWarning(
            "posthog_absent",
            f"nothing is captured{flag if settings.cost_controls is None else ''}",
            "POSTHOG_API_KEY",
        )
    if settings.database_url is None and settings.supabase_url is not None:
        yield StartWarning(
            "workflows_not_durable",
            "each process finishes its own calls, and a killed one leaves them to the next sweep",
            "DATABASE_URL",
        )
