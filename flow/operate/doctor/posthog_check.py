"""PostHog: whether it takes the project key."""

from __future__ import annotations

import httpx

from flow.operate.doctor.answers import Asker, NoAnswer
from flow.operate.doctor.finding import Finding, ok, problem, skipped
from flow.settings import Settings

NAME = "posthog"


async def posthog_finding(settings: Settings, asker: Asker) -> Finding:
    """What PostHog says to a question for feature flags, which captures nothing."""
    if settings.posthog_api_key is None:
        return skipped(NAME, "not used: nothing is captured")
    host = settings.posthog_host.rstrip("/")
    asked = {"api_key": settings.posthog_api_key.get_secret_value(), "distinct_id": "flow-doctor"}
    away = "See POSTHOG_HOST and this machine's way out."
    try:
        answer = await asker.ask(NAME, httpx.Request("POST", f"{host}/flags/?v=2", json=asked))
    except NoAnswer as error:
        return problem(NAME, f"{host} cannot be asked: {error}", away)
    if answer.is_success:
        return ok(NAME, f"{host} takes the project key")
    if answer.status_code in (401, 403):
        cure = "Set POSTHOG_API_KEY to the project's key (phc_...), and POSTHOG_HOST to its region."
        return problem(NAME, f"{host} refuses the project key (HTTP {answer.status_code})", cure)
    return problem(NAME, f"{host} answers HTTP {answer.status_code}", away)
