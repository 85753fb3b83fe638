"""How long what a request writes to Anthropic's prompt cache lasts, where the answer does not say.

A breakpoint lasts five minutes, or with ``"ttl": "1h"`` an hour, which costs more
(docs.claude.com, "Prompt caching"). OpenAI's protocol, in which gateways pass Claude on, has one
number for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from flow.domain.usage.vendor_reports import ReportedTokens

_HOUR = "1h"
_NEST_BLOCKS = ("tools", "system", "messages", "content", "function")
# A tool's result may hold blocks of its own; what is deeper is nobody's protocol.
_DEEPEST = 12


def writes_for_an_hour(request: Mapping[str, Any]) -> bool:
    """Whether every cache breakpoint of the request lasts an hour."""
    return set(_lifetimes(request, _DEEPEST)) == {_HOUR}


def with_lifetimes(reported: ReportedTokens, *, all_for_an_hour: bool) -> ReportedTokens:
    """The report with its cache writes as hour-long ones, where only the request tells that."""
    if not all_for_an_hour or reported.cache_write_1h_tokens is not None:
        return reported
    return replace(reported, cache_write_1h_tokens=reported.cache_write_tokens)


def _lifetimes(node: Any, deepest: int) -> Iterator[Any]:
    if not deepest:
        return
    if isinstance(node, list):
        for item in node:
            if isinstance(item, list | dict):
                yield from _lifetimes(item, deepest - 1)
    elif isinstance(node, dict):
        control = node.get("cache_control")
        if isinstance(control, dict):
            yield control.get("ttl")
        for name in _NEST_BLOCKS:
            if isinstance(within := node.get(name), list | dict):
                yield from _lifetimes(within, deepest - 1)
