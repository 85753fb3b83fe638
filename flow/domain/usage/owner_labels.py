"""Whose work a request or an analytics event is: built here, from the `Owner`, and nowhere else.

A caller can put what it likes into its own headers and metadata; these names are always
overwritten by the server's values, or removed when the server has none.

Gateways that capture generations take their properties from headers, in two ways, and a request
has both:

- One header a property, ``x-posthog-property-<name>`` (PostHog's ``services/llm-gateway``,
  ``_extract_headers_with_prefix``): the rest of the header's name, in lower case, is the
  property, and its value is a string.
- All in one, ``X-PostHog-Properties`` (PostHog's ``ai-gateway``, which reads no other; see
  ``posthog/llm/gateway_client.py``): a JSON object. ``$ai_billable`` is a boolean there, which is
  what PostHog's usage report looks for, and the names survive proxies that drop headers with
  ``$`` or ``_`` in their names, as nginx does unless told otherwise.

The ``ai-gateway`` takes what its events are found by from headers of their own too:
``X-PostHog-Trace-Id``, ``-Session-Id``, ``-Distinct-Id`` and ``-Product``.

PostHog's own gateways keep ``$ai_billable`` to themselves (the first writes that of its product
over ours, the second strips names that begin with ``$ai_``); others take ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from flow.domain.usage.events import CostControl, Owner

PREFIX = "x-posthog-property-"
PROPERTIES_HEADER = "x-posthog-properties"
PROPERTY_NAMES = (
    *("ai_product", "$ai_billable", "team_id", "api_key_id", "workflow_thread_id"),
    *("save_mode", "save_mode_reason", "budget_tier"),
)
"""The properties that only the server sets."""

TRACE_ID_HEADER = "x-posthog-trace-id"
SESSION_ID_HEADER = "x-posthog-session-id"
DISTINCT_ID_HEADER = "x-posthog-distinct-id"
PRODUCT_HEADER = "x-posthog-product"
ID_HEADERS = (TRACE_ID_HEADER, SESSION_ID_HEADER, DISTINCT_ID_HEADER)
"""The headers that a caller may set of a request that belongs to no call."""

HEADER_NAMES = (
    *(PREFIX + name for name in PROPERTY_NAMES),
    *(PROPERTIES_HEADER, *ID_HEADERS, PRODUCT_HEADER),
)
"""The headers that carry all of this, in lower case."""

_HEADER_NAMES = frozenset(HEADER_NAMES)

# RFC 9110 allows more in a field value; what is left out here has been used to split headers
# (control characters) or is read differently by different servers (anything beyond ASCII).
_AS_IS = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def attribution_properties(owner: Owner) -> dict[str, Any]:
    """What every PostHog event carries; written last, so that nothing overrides it.

    ``workflow_thread_id`` is left out of what belongs to no thread.
    """
    return _known(
        {
            "ai_product": owner.product,
            "$ai_billable": owner.billable,
            "team_id": owner.team_id,
            "api_key_id": str(owner.api_key_id),
            "workflow_thread_id": owner.workflow_thread_id and str(owner.workflow_thread_id),
        }
    )


def control_properties(control: CostControl) -> dict[str, Any]:
    """What was done about a generation's cost; written last, like the attribution."""
    return _known(
        {
            "save_mode": control.save_mode,
            "save_mode_reason": control.save_mode_reason,
            "budget_tier": control.budget_tier,
        }
    )


def attribution_headers(owner: Owner, control: CostControl) -> dict[str, str]:
    """The headers that tell an LLM gateway whose request it serves, and what is done about its
    cost.

    A value that is unset or blank has no header. Printable ASCII is sent as it is; every other
    character, and ``%`` itself, is percent-encoded as UTF-8, so that a value can neither end a
    header line nor lose information: ``urllib.parse.unquote`` gives it back. ``true`` and
    ``false`` are booleans.
    """
    return _headers(owner, control)


def with_attribution(
    existing: Mapping[str, str], owner: Owner | None, control: CostControl
) -> dict[str, str]:
    """``existing`` headers, then the owner's attribution in place of any that was there.

    Names are compared without case. Other headers are kept as they are, and so are other
    properties in ``X-PostHog-Properties``, if that can be read. The ids of what belongs to no
    call are the existing ones, as they are in Flow's own events. ``owner=None`` only removes,
    which is what a vendor that is no gateway is to see.
    """
    kept = {name: value for name, value in existing.items() if name.lower() not in _HEADER_NAMES}
    others = _others(existing)
    if owner is None:
        return kept | ({PROPERTIES_HEADER: _one_line(others)} if others else {})
    headers = kept | (_headers(owner, control, others) if others else _own_headers(owner, control))
    if owner.workflow_thread_id is None:
        named = ((name.lower(), value.strip()) for name, value in existing.items())
        ids = {name: value for name, value in named if name in ID_HEADERS and value}
        headers |= {name: quote(value, safe=_AS_IS + "%") for name, value in ids.items()}
    return headers


def _properties(owner: Owner, control: CostControl) -> dict[str, Any]:
    found = attribution_properties(owner) | control_properties(control)
    # What a header carries at its ends is cut off by every server: cut it here.
    texts = {
        name: value if isinstance(value, bool) else str(value).strip()
        for name, value in found.items()
    }
    return {name: value for name, value in texts.items() if value != ""}


def _headers(
    owner: Owner, control: CostControl, others: Mapping[str, Any] | None = None
) -> dict[str, str]:
    ours = _properties(owner, control)
    ids = {
        TRACE_ID_HEADER: ours.get("workflow_thread_id"),
        SESSION_ID_HEADER: ours.get("workflow_thread_id"),
        DISTINCT_ID_HEADER: ours.get("api_key_id"),
        PRODUCT_HEADER: ours.get("ai_product"),
    }
    return {
        **{PREFIX + name: _header_value(value) for name, value in ours.items()},
        PROPERTIES_HEADER: _one_line({**(others or {}), **ours}),
        **{name: _header_value(value) for name, value in _known(ids).items()},
    }


# A key's requests follow one another, and percent-encoding a dozen values takes its time.
_own_headers = lru_cache(maxsize=1_000)(_headers)


def _header_value(value: str | bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return quote(value, safe=_AS_IS, errors="replace")


def _one_line(properties: Mapping[str, Any]) -> str:
    # The one character of ASCII that JSON does not escape and a header must not have.
    return json.dumps(properties).replace("\x7f", "\\u007f")


def _others(headers: Mapping[str, str]) -> dict[str, Any]:
    """What ``X-PostHog-Properties`` says besides what only the server says."""
    (*_, text) = ("", *(v for name, v in headers.items() if name.lower() == PROPERTIES_HEADER))
    if not text:
        return {}
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(said, dict):
        return {}
    return {n: value for n, value in said.items() if n.strip().lower() not in PROPERTY_NAMES}


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
