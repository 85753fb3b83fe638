"""The TLS context of all HTTP clients, read once a process."""

from __future__ import annotations

import ssl
from functools import cache

import httpx


@cache
def trusted() -> ssl.SSLContext:
    """The authorities that httpx trusts (``SSL_CERT_FILE`` and ``SSL_CERT_DIR``, or certifi's).

    Reading them takes longer than making all else of a client, so a process reads them once.
    """
    return httpx.create_ssl_context()
