"""The pages are served to anybody, may load nothing from elsewhere, and are kept by browsers."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from pydantic import SecretStr

from flow.api.pages import DevPages
from flow.vendors.recording_storage.s3 import S3, S3Account
from tests.api.conftest import Api, ServeApi

PAGE = "<!doctype html><title>Console</title>"
SCRIPT = b"console.log('hello');"


@pytest.fixture
async def built(serve_api: ServeApi, tmp_path: Path) -> Api:
    """An API with a console that was built."""
    (tmp_path / "assets").mkdir()
    (tmp_path / "console.html").write_text(PAGE)
    (tmp_path / "secret.txt").write_text("not a page")
    for name in ("a-1b2c.js", "plain-1b2c.svg"):
        (tmp_path / "assets" / name).write_bytes(SCRIPT)
    (tmp_path / "assets" / "a-1b2c.js.gz").write_bytes(gzip.compress(SCRIPT))
    return await serve_api(pages=tmp_path)


async def test_a_page_and_its_views_are_the_same_file_for_anybody(built: Api) -> None:
    for path in ("/console", "/console/", "/console/calls/8f14e45f"):
        answer = await built.anonymous.get(path)
        assert (answer.status_code, answer.text) == (200, PAGE)
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["cache-control"] == "no-cache"
    assert (await built.anonymous.head("/console")).status_code == 200


async def test_a_page_may_load_from_its_own_server_alone(built: Api) -> None:
    policy = (await built.anonymous.get("/console")).headers["content-security-policy"]
    directives = dict(each.strip().split(" ", 1) for each in policy.split(";"))
    assert directives["default-src"] == "'self'"
    assert directives["frame-ancestors"] == directives["base-uri"] == "'none'"
    assert "unsafe" not in policy
    assert "http" not in policy


async def test_a_page_may_play_recordings_from_where_their_storage_s_links_lead(
    serve_api: ServeApi,
) -> None:
    storage = S3("calls", "", S3Account("key", SecretStr("secret"), "eu-central-1"))
    api = await serve_api(recordings=storage)
    for path in ("/console", "/talk"):
        policy = (await api.anonymous.get(path)).headers["content-security-policy"]
        assert "media-src 'self' blob: https://calls.s3.eu-central-1.amazonaws.com;" in policy
        assert policy.count("https:") == 1


@pytest.mark.parametrize(("name", "zipped"), [("a-1b2c.js", True), ("plain-1b2c.svg", False)])
async def test_a_file_that_a_page_loads_is_kept_for_good(
    built: Api, name: str, zipped: bool
) -> None:
    for accepted, encoding in (("gzip, br", "gzip" if zipped else None), ("identity", None)):
        answer = await built.anonymous.get(f"/assets/{name}", headers={"Accept-Encoding": accepted})
        assert answer.content == SCRIPT
        assert answer.headers.get("content-encoding") == encoding
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-type"].split(";")[0] in {"text/javascript", "image/svg+xml"}


@pytest.mark.parametrize(
    "path", ["b.js", "..", "%2e%2e%2fsecret.txt", "..%5csecret.txt", "a" * 300]
)
async def test_nothing_but_files_of_pages_is_served(built: Api, path: str) -> None:
    answer = await built.anonymous.get(f"/assets/{path}")
    assert answer.status_code == 404
    assert "not a page" not in answer.text


async def test_a_page_that_was_not_built_says_how_to_build_it(built: Api) -> None:
    answer = await built.anonymous.get("/talk")
    assert answer.status_code == 503
    assert "make web" in answer.text
    assert "content-security-policy" in answer.headers


@pytest.mark.parametrize(
    ("key", "host", "has_key"),
    [
        ("flow_key", "127.0.0.1", True),
        ("flow_key", "localhost", True),
        ("flow_key", "[::1]", True),
        # A name that its owner has led to this machine, so that a page of theirs may read this one.
        ("flow_key", "rebound.example.com", False),
        (None, "127.0.0.1", False),
    ],
)
async def test_in_development_the_talk_page_has_a_key_for_this_machine_alone(
    serve_api: ServeApi, tmp_path: Path, key: str | None, host: str, has_key: bool
) -> None:
    for name in ("talk", "console"):
        (tmp_path / f"{name}.html").write_text("<head><title>Page</title></head>")
    api = await serve_api(pages=tmp_path, dev_pages=DevPages(key))
    port = api.url.rpartition(":")[2]
    page = await api.anonymous.get("/talk", headers={"Host": f"{host}:{port}"})
    assert ('<meta name="flow-dev-key" content="flow_key">' in page.text) is has_key
    assert page.headers["cache-control"] == "no-store"
    assert "flow_key" not in (await api.anonymous.get("/console")).text
    start = await api.anonymous.get("/", follow_redirects=False)
    assert (start.is_redirect, start.headers["location"]) == (True, "/talk")


async def test_elsewhere_there_is_no_page_at_the_root(built: Api) -> None:
    assert (await built.anonymous.get("/")).status_code == 404
