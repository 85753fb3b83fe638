"""The pages: files built from ``flow/web``, which ask the public API from the caller's browser.

They need no key: whoever looks at one brings it, or the token of a join. Nothing in them comes from
another host, and their content security policy has the browser refuse what would; but for the
recordings of calls where a storage signs links to itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from mimetypes import guess_type
from os.path import isfile
from pathlib import Path

from fastapi import APIRouter, HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

STATIC = Path(__file__).parents[1] / "web" / "static"
"""Where `make web` puts them; a wheel carries them in the same place."""

_POLICY = {
    "default-src": "'self'",
    "img-src": "'self' data:",
    "media-src": "'self' blob:",
    "object-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}
_SECURITY = {
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
# The name of a file of assets/ holds a hash of what is in it.
_FOR_GOOD = "public, max-age=31536000, immutable"
_THIS_MACHINE = frozenset({"127.0.0.1", "localhost", "::1"})
_NOT_BUILT = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<title>Flow</title>
<h1>This page has not been built</h1>
<p>It is part of every released package and image of Flow. In a checkout <code>make web</code>
builds it; that needs Node 20.19 or newer, with npm.</p>
"""


@dataclass(frozen=True, slots=True)
class Page:
    """One page, at ``/NAME``.

    ``has_views``: its script shows other views at paths below. ``policy`` are directives of the
    content security policy beside those of all pages; ``microphone``: it may ask for one.
    """

    name: str
    has_views: bool = False
    policy: tuple[tuple[str, str], ...] = ()
    microphone: bool = False

    def headers(self, sounds_at: str | None = None) -> dict[str, str]:
        """What goes with its HTML, or with the word that there is none.

        ``sounds_at``: the origin, other than the service's, whose recordings the page may play.
        """
        directives = {**_POLICY, **dict(self.policy)}
        if sounds_at is not None:
            directives["media-src"] += f" {sounds_at}"
        return {
            **_SECURITY,
            "cache-control": "no-cache",
            "content-security-policy": "; ".join(map(" ".join, directives.items())),
            "permissions-policy": f"camera=(), microphone={'(self)' if self.microphone else '()'}",
        }


# Pipecat's client makes its audio worklets of blobs.
TALK = Page("talk", microphone=True, policy=(("script-src", "'self' blob:"),))
PAGES = (Page("console", has_views=True), TALK)


@dataclass(frozen=True, slots=True)
class DevPages:
    """What pages have of a service for development, which nobody but this machine can reach.

    ``key`` is an API key that the talk page uses without asking for one. It is in the page only
    where that was asked for by a name of this machine: another site may have its own name lead
    here, and read what it gets.
    """

    key: str | None

    def put_into(self, html: str, host: str | None) -> str:
        """The page with the key in it, as it is asked for at ``host``."""
        if self.key is None or host not in _THIS_MACHINE:
            return html
        meta = f'<meta name="flow-dev-key" content="{escape(self.key)}">'
        return html.replace("</head>", f"{meta}</head>", 1)


def pages_router(
    folder: Path = STATIC, dev: DevPages | None = None, *, sounds_at: str | None = None
) -> APIRouter:
    """Routes of the pages that were built into ``folder``, and of what they load.

    Recordings of calls are played from the service itself, or where their links lead: to the
    origin ``sounds_at``. For development ``/`` leads to the talk page.
    """
    router = APIRouter(include_in_schema=False)
    for page in PAGES:
        _add(router, page, folder, dev if page is TALK else None, page.headers(sounds_at))
    if dev is not None:

        @router.api_route("/", methods=["GET", "HEAD"])
        async def start() -> Response:
            return RedirectResponse(f"/{TALK.name}")

    @router.api_route("/assets/{name}", methods=["GET", "HEAD"])
    def asset(request: Request, name: str) -> Response:
        file = folder / "assets" / name
        # False for a name that is longer than file systems take; `Path.is_file` raises there.
        if not isfile(file):
            raise HTTPException(404)
        headers = {**_SECURITY, "cache-control": _FOR_GOOD, "vary": "Accept-Encoding"}
        zipped = file.with_name(f"{name}.gz")
        if "gzip" in request.headers.get("accept-encoding", "") and zipped.is_file():
            headers["content-encoding"] = "gzip"
            return FileResponse(zipped, media_type=guess_type(name)[0], headers=headers)
        return FileResponse(file, headers=headers)

    return router


def _add(
    router: APIRouter, page: Page, folder: Path, dev: DevPages | None, headers: dict[str, str]
) -> None:
    async def show(request: Request) -> Response:
        file = folder / f"{page.name}.html"
        if not file.is_file():
            return HTMLResponse(_NOT_BUILT, status_code=503, headers=headers)
        if dev is None:
            return FileResponse(file, headers=headers)
        html = dev.put_into(file.read_text("utf-8"), request.url.hostname)
        return HTMLResponse(html, headers={**headers, "cache-control": "no-store"})

    paths = [f"/{page.name}", *([f"/{page.name}/{{view:path}}"] if page.has_views else [])]
    for path in paths:
        router.add_api_route(path, show, methods=["GET", "HEAD"], response_model=None)
