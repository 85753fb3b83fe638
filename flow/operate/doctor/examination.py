"""All checks, those that wait for others at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from flow.errors import ConfigurationError
from flow.operate.doctor.answers import Asker
from flow.operate.doctor.clock_check import clock_finding
from flow.operate.doctor.database_check import look_at_database
from flow.operate.doctor.finding import Finding, problem, skipped
from flow.operate.doctor.host_check import disk_findings, port_finding, public_url_finding
from flow.operate.doctor.posthog_check import posthog_finding
from flow.operate.doctor.settings_check import NAME as SETTINGS
from flow.operate.doctor.settings_check import settings_findings
from flow.operate.doctor.unkey_check import unkey_findings
from flow.operate.doctor.vendor_keys import key_findings
from flow.operate.doctor.webhook_check import webhook_findings
from flow.settings import Settings


async def examine(progress: Callable[[str], None] = lambda _: None) -> list[Finding]:
    """Every finding about this process's environment; ``progress`` hears what is being tried."""
    try:
        settings = Settings.read()
    except ConfigurationError as error:
        wrong = [problem(SETTINGS, sentence) for sentence in str(error).splitlines()]
        return [*wrong, skipped("all else", "not looked at before the settings can be read")]
    progress("the settings")
    found = await asyncio.to_thread(settings_findings, settings)
    asker = Asker()
    try:
        progress("the database")
        looked = await look_at_database(settings)
        progress("Unkey, PostHog, the vendors, webhooks and this machine")
        posthog, keys, unkey, webhooks, port, public = await asyncio.gather(
            posthog_finding(settings, asker),
            key_findings(settings, asker),
            unkey_findings(settings, looked.known_key),
            webhook_findings(settings, looked.deliveries),
            port_finding(settings, asker),
            public_url_finding(settings, asker),
        )
    finally:
        await asker.aclose()
    clocks = [*asker.clocks, *([looked.clock] if looked.clock else [])]
    return [
        *found,
        *looked.findings,
        *unkey,
        posthog,
        *keys,
        *webhooks,
        *await asyncio.to_thread(lambda: list(disk_findings(settings.data_dir))),
        port,
        public,
        clock_finding(clocks),
    ]
