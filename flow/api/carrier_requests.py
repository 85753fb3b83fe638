"""Reading a carrier's requests: forms that it has signed, with the URL that it asked."""

from __future__ import annotations

from urllib.parse import parse_qsl

from starlette.requests import Request

from flow.api.call_connections import base_url
from flow.api.dependencies import Services
from flow.domain.calls.media_stream import CarrierRequest
from flow.errors import Refused

MAX_FIELDS = 200
FORM = "application/x-www-form-urlencoded"


async def carrier_request(request: Request, services: Services) -> CarrierRequest:
    """The request as the carrier made it, seen from outside of any proxy.

    Raises:
        Refused: it has no form, or one that cannot be read.
    """
    query = request.scope["query_string"].decode("latin-1")
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    url = f"{base_url(request, services)}{path}{f'?{query}' if query else ''}"
    return CarrierRequest(url, request.headers, await _form(request))


async def _form(request: Request) -> list[tuple[str, str]]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != FORM:
        raise Refused("unsupported_media_type", f"Send the body as {FORM}.")
    try:
        text = (await request.body()).decode()
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError:
        raise Refused("malformed_request", "The form cannot be read.") from None
