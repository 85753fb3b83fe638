"""The API's own page works without the internet."""

from __future__ import annotations

import re
from urllib.parse import urljoin

from tests.api.conftest import Api


async def test_the_page_is_made_of_files_of_this_service(api: Api) -> None:
    page = await api.anonymous.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(named) == 5
    start = await api.anonymous.get("/docs/start.js")
    (described,) = re.findall(r'url: "([^"]+)"', start.text)
    for name in [*named, described]:
        url = urljoin(f"{api.url}/docs", name)
        assert url.startswith(api.url)
        answer = await api.anonymous.get(url)
        assert answer.status_code == 200
        assert answer.content


async def test_the_policy_lets_the_page_ask_nobody_else(api: Api) -> None:
    for path in ("/docs", "/docs/start.js", "/docs/swagger-ui.css"):
        policy = (await api.anonymous.get(path)).headers["content-security-policy"]
        sources = {source for part in policy.split(";") for source in part.split()[1:]}
        assert sources == {"'none'", "'self'", "data:"}
        assert "script-src 'self';" in policy


async def test_no_other_file_is_served_there(api: Api) -> None:
    for path in ("/docs/nothing.js", "/docs/__init__.py", "/docs/..%2fmain.py", "/redoc"):
        assert (await api.anonymous.get(path)).status_code == 404
