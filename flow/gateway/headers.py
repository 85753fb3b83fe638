"""Headers: what of a request goes on to a vendor, what of its answer comes back, and what a
request says of itself for analytics."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from flow.domain.gateway.request import GatewayRequest, RawHeaders
from flow.domain.usage.events import RequestIds
from flow.domain.usage.owner_labels import (
    DISTINCT_ID_HEADER,
    ID_HEADERS,
    PREFIX,
    PROPERTIES_HEADER,
    SESSION_ID_HEADER,
    TRACE_ID_HEADER,
)
from flow.metering.taps.answer import EVENT_ID_HEADER

SAVE_MODE_HEADER = b"x-flow-save-mode"
LONGEST_ID = 200
MOST_PROPERTIES = 64
DEEPEST = 32
MOST_DIGITS = 18

# PostHog takes these characters in a trace's id.
_TRACE_ID = re.compile(r"[A-Za-z0-9\-_~.@()!':|]{1,200}")

_PASSED_ON = frozenset(
    {b"accept", b"content-type", b"user-agent", b"anthropic-version", b"anthropic-beta",
     b"anthropic-dangerous-direct-browser-access", b"openai-beta", b"accept-language"}
)  # fmt: skip
_PASSED_ON_PREFIX = b"x-stainless-"
_ANALYTICS = frozenset(name.encode() for name in (PROPERTIES_HEADER, *ID_HEADERS))

# Of one connection (RFC 9110, section 7.6.1), of the vendor's own website and accounts, or Flow's.
_KEPT_BACK = frozenset(
    {b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-connection", b"te", b"trailer",
     b"transfer-encoding", b"upgrade", b"server", b"date", b"via", b"alt-svc", b"set-cookie",
     b"strict-transport-security", b"www-authenticate", b"openai-organization", b"openai-project",
     b"anthropic-organization-id", b"location", EVENT_ID_HEADER.encode()}
)  # fmt: skip
_KEPT_BACK_QUERY = frozenset(
    {"key", "apikey", "xapikey", "accesstoken", "oauthtoken", "authorization", "subscriptionkey",
     "fields", "alt", "callback", "quotauser", "userproject", "httpmethod"}
)  # fmt: skip
_KEPT_BACK_PREFIXES = (b"access-control-", b"x-posthog-", b"cf-")


def request_headers(request: GatewayRequest, defaults: Mapping[str, str]) -> dict[str, str]:
    """The headers of a request to a vendor, without its key. What names or authorizes the caller
    stays here, and so does what could have the vendor do something else than is accounted for."""
    found: dict[str, str] = {}
    for name, value in request.headers:
        if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIX):
            known, said = name.decode("latin-1"), value.decode("latin-1")
            # One that is there twice is a list (RFC 9110, section 5.3).
            found[known] = f"{found[known]}, {said}" if known in found else said
    found = {**defaults, **found}
    found["accept-encoding"] = _readable_encoding(request)
    return found


def attributing_headers(request: GatewayRequest) -> Iterator[tuple[str, str]]:
    """What a request says for analytics, for a gateway behind this one. Names that begin with ``$``
    are PostHog's own, such as what a request has cost."""
    own = PREFIX.encode()
    for name, value in request.headers:
        if name == PROPERTIES_HEADER.encode():
            said = {key: one for key, one in _object(value).items() if not key.startswith("$")}
            yield PROPERTIES_HEADER, json.dumps(said)
        elif name in _ANALYTICS or (name.startswith(own) and not name.startswith(own + b"$")):
            yield name.decode("latin-1"), value.decode("latin-1")


def passed_query(request: GatewayRequest) -> str:
    """The query of a request to a vendor, without what names another key or leaves out of the
    answer what was used, as Google's do (cloud.google.com/apis/docs/system-parameters)."""
    parts = request.query.decode("latin-1").split("&")
    return "&".join(part for part in parts if _query_name(part) not in _KEPT_BACK_QUERY)


def _query_name(part: str) -> str:
    name = unquote(part.partition("=")[0]).lower().lstrip("$.")
    return name.replace("-", "").replace("_", "")


def answer_headers(headers: RawHeaders, api_key: str) -> list[tuple[bytes, bytes]]:
    """The headers of an answer to the caller; the vendor's request id under another name."""
    secret = api_key.encode()
    found = []
    for name, value in headers:
        lower = name.lower()
        if lower in _KEPT_BACK or lower.startswith(_KEPT_BACK_PREFIXES) or secret in value:
            continue
        found.append((b"x-upstream-request-id" if lower == b"x-request-id" else lower, value))
    return found


def _readable_encoding(request: GatewayRequest) -> str:
    """What the caller and a reader can both decode."""
    accepted = request.header(b"accept-encoding") or ""
    offers = (offer.strip().lower().replace(" ", "") for offer in accepted.split(","))
    wanted = {o.partition(";")[0] for o in offers if not re.search(r";q=0(\.0*)?$", o)}
    return "gzip" if wanted & {"gzip", "x-gzip", "*"} else "identity"


def ids_of(request: GatewayRequest) -> RequestIds:
    """The ids that the caller gave; one that is too long or not printable counts as not given."""
    trace_id = request.header(TRACE_ID_HEADER.encode())
    return RequestIds(
        request_id=request.request_id,
        trace_id=trace_id if trace_id and _TRACE_ID.fullmatch(trace_id) else None,
        session_id=_id(request.header(SESSION_ID_HEADER.encode())),
        distinct_id=_id(request.header(DISTINCT_ID_HEADER.encode())),
    )


def properties_of(request: GatewayRequest) -> dict[str, Any]:
    """What the caller says of its request for analytics, in both ways in which gateways take it."""
    prefix = PREFIX.encode()
    found: dict[str, Any] = {}
    for name, value in request.headers:
        if name == PROPERTIES_HEADER.encode():
            found |= _object(value)
        elif name.startswith(prefix) and len(name) > len(prefix):
            found[name[len(prefix) :].decode("latin-1")] = unquote(value.decode("latin-1"))
    return dict(list(found.items())[:MOST_PROPERTIES])


def _object(text: bytes) -> dict[str, Any]:
    """The object in a header; of what some parser of JSON would refuse, nothing: one such event
    would have all that are sent with it refused."""
    try:
        said = json.loads(text, parse_constant=float, parse_int=_small)
        json.dumps(said, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) and _is_shallow(said) else {}


def _small(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError("it has too many digits")
    return int(digits)


def _is_shallow(value: Any, deepest: int = DEEPEST) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return deepest > 0 and all(_is_shallow(one, deepest - 1) for one in inner)


def _id(value: str | None) -> str | None:
    fits = value and len(value) <= LONGEST_ID and value.isprintable()
    return value if fits else None
