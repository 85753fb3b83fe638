"""``/docs``: the API in a browser, where requests can be tried.

Swagger UI's files come with the package ``fastapi-swagger``. The page asks no other host for
anything, and its content security policy does not let it.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, Response

from flow.errors import NotFound

# Of Swagger UI's icons some are "data:" URLs in its style sheet.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"content-security-policy": _POLICY, "x-content-type-options": "nosniff"}
_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Flow: the API</title>
<link rel="icon" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="stylesheet" href="docs/colours.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = """\
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  // Its headings leave the second level out, and what is above its main part has no landmark.
  onComplete: () => {
    document.querySelectorAll(".opblock-tag, .models > h4").forEach(
      (heading) => heading.setAttribute("aria-level", "2"));
    document.querySelector(".information-container")?.setAttribute("role", "banner");
  },
});
"""
_COLOURS = """\
/* Swagger UI's own colours are too pale to be read by everybody. */
.swagger-ui .info .title small { background: #5c6470; }
.swagger-ui .info .title small.version-stamp { background: #3f6212; }
.swagger-ui .info a, .swagger-ui .info .link, .swagger-ui .info .url { color: #1d4ed8; }
.swagger-ui .btn.authorize { border-color: #0b6b46; color: #0b6b46; }
.swagger-ui .btn.authorize svg, .swagger-ui .btn.authorize.unlocked svg { fill: #0b6b46; }
.swagger-ui .opblock.opblock-get .opblock-summary-method { background: #1d4ed8; }
.swagger-ui .opblock.opblock-post .opblock-summary-method { background: #0b6b46; }
.swagger-ui .opblock.opblock-put .opblock-summary-method { background: #8a4b00; }
.swagger-ui .opblock.opblock-patch .opblock-summary-method { background: #0b6470; }
.swagger-ui .opblock.opblock-delete .opblock-summary-method { background: #b42318; }
.swagger-ui .opblock.opblock-head .opblock-summary-method { background: #6d28d9; }
.swagger-ui .json-schema-2020-12-expand-deep-button { color: #4b5563; }
"""
_FILES = Path(str(resources.files("fastapi_swagger"))) / "resources"
_TYPES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def page() -> Response:
    """The page; its own paths are relative, for a service behind a path of a proxy."""
    return Response(_PAGE, media_type="text/html", headers=_HEADERS)


@router.get("/docs/start.js")
async def start() -> Response:
    """What begins it: a script in the page itself would need a weaker policy."""
    return Response(_START, media_type="text/javascript", headers=_HEADERS)


@router.get("/docs/colours.css")
async def colours() -> Response:
    """Colours in the place of Swagger UI's own, where those cannot be read by everybody."""
    return Response(_COLOURS, media_type="text/css", headers=_HEADERS)


@router.get("/docs/{name}")
async def asset(name: str) -> Response:
    """One of Swagger UI's files."""
    if name not in _TYPES:
        raise NotFound("There is nothing at this path.")
    headers = {**_HEADERS, "cache-control": "public, max-age=86400"}
    return FileResponse(_FILES / name, media_type=_TYPES[name], headers=headers)
