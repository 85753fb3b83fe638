"""Whose work a request or an analytics event is: built here, from the `Owner`, and nowhere else.

A caller can put what it likes into its own headers and metadata; these names are always
overwritten by the server's values, or removed when the server has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from flow.domain.usage import Owner

PREFIX = "x-posthog-property-"
HEADER_NAMES = tuple(
    PREFIX + name for name in ("team_id", "api_key_id", "ai_product", "workflow_thread_id")
)

# RFC 9110 allows more in a field value; what is left out here has been used to split headers
# (control characters) or is read differently by different servers (anything beyond ASCII).
_AS_IS = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def attribution_headers(owner: Owner) -> dict[str, str]:
    """The headers that tell an LLM gateway whose request it serves.

    A value that is unset or blank has no header. Printable ASCII is sent as it is; every other
    character, and ``%`` itself, is percent-encoded as UTF-8, so that a value can neither end a
    header line nor lose information: ``urllib.parse.unquote`` gives it back.
    """
    values = (owner.team_id, owner.api_key_id, owner.product, owner.workflow_thread_id)
    named = zip(HEADER_NAMES, values, strict=True)
    # What a header carries at its ends is cut off by every server: cut it here.
    texts = ((name, "" if value is None else str(value).strip()) for name, value in named)
    return {name: quote(text, safe=_AS_IS, errors="replace") for name, text in texts if text}


def with_attribution(existing: Mapping[str, str], owner: Owner | None) -> dict[str, str]:
    """``existing`` headers with the owner's attribution in place of any that was there.

    Names are compared without case. Other headers are kept as they are. ``owner=None`` only
    removes, which is what a vendor that is no gateway is to see.
    """
    kept = {name: value for name, value in existing.items() if name.lower() not in HEADER_NAMES}
    return kept if owner is None else {**kept, **attribution_headers(owner)}


def attribution_properties(owner: Owner) -> dict[str, Any]:
    """What every PostHog event carries; written last, so that nothing overrides it."""
    return {
        "ai_product": owner.product,
        "$ai_billable": owner.billable,
        "team_id": owner.team_id,
        "api_key_id": str(owner.api_key_id),
        "workflow_thread_id": str(owner.workflow_thread_id),
    }
