"""Answers with a part of a body, for ``Range: bytes=first-last``."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import Response

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


def ranged(request: Request, body: bytes, media_type: str) -> Response:
    """The body, or the range of it that is asked for."""
    headers = {"Accept-Ranges": "bytes"}
    found = _RANGE.fullmatch(request.headers.get("range", ""))
    if found is None:
        return Response(body, headers=headers, media_type=media_type)
    first, last = int(found[1]), int(found[2] or len(body) - 1)
    part = body[first : last + 1]
    headers["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(body)}"
    return Response(part, 206, headers, media_type)
