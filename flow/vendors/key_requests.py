"""One cheap request of each vendor, which only a good key is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import httpx

KeyRequest: TypeAlias = Callable[[str, str], httpx.Request]
"""The request, made of the API's base URL and the key. It costs nothing and changes nothing."""


def get(
    path: str, header: str = "Authorization", scheme: str = "Bearer ", **more: str
) -> KeyRequest:
    """A GET of ``path`` below the base URL with the key in ``header``.

    Args:
        scheme: what stands before the key.
        more: further headers, with underscores for hyphens.
    """
    others = {name.replace("_", "-"): value for name, value in more.items()}

    def request(base_url: str, api_key: str) -> httpx.Request:
        headers = {header: f"{scheme}{api_key}", "Accept": "application/json", **others}
        return httpx.Request("GET", f"{base_url.rstrip('/')}{path}", headers=headers)

    return request


LIST_MODELS = get("/models")
"""In OpenAI's protocol."""
