"""The limits a minute of requests to the gateway, as clients of OpenAI and Anthropic read them.

The names and forms are those of platform.openai.com, "Rate limits", and docs.claude.com, "Rate
limits". They take the place of what a vendor says of the operator's own limits.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from flow.domain.gateway.operations import Protocol
from flow.domain.limits.lease import Rate, Rates

RawHeader = tuple[bytes, bytes]
_OF_LIMITS = (b"x-ratelimit-", b"anthropic-ratelimit-")


def with_rates(
    headers: Iterable[RawHeader], rates: Rates, protocol: Protocol | None
) -> list[RawHeader]:
    """The headers of an answer with the limits, in the protocol of the request."""
    write = _anthropic if protocol is Protocol.ANTHROPIC else _openai
    kept = [pair for pair in headers if not pair[0].startswith(_OF_LIMITS)]
    for name, rate in (("requests", rates.requests), ("tokens", rates.tokens)):
        if rate is not None:
            kept += [(key.encode(), value.encode()) for key, value in write(name, rate).items()]
    return kept


def _openai(name: str, rate: Rate) -> dict[str, str]:
    secs = max((rate.resets_at - datetime.now(UTC)).total_seconds(), 0)
    return {
        f"x-ratelimit-limit-{name}": str(rate.limit),
        f"x-ratelimit-remaining-{name}": str(rate.remaining),
        f"x-ratelimit-reset-{name}": f"{secs:.3f}s",
    }


def _anthropic(name: str, rate: Rate) -> dict[str, str]:
    return {
        f"anthropic-ratelimit-{name}-limit": str(rate.limit),
        f"anthropic-ratelimit-{name}-remaining": str(rate.remaining),
        f"anthropic-ratelimit-{name}-reset": rate.resets_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
