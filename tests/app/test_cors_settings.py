"""Which origins may be named."""

from __future__ import annotations

import pytest

from flow.errors import ConfigurationError
from flow.settings import Settings


@pytest.mark.parametrize(
    ("value", "origins"),
    [
        ("", ()),
        ("https://app.example.com", ("https://app.example.com",)),
        (
            "https://app.example.com , http://localhost:5173",
            ("https://app.example.com", "http://localhost:5173"),
        ),
        ("*", ("*",)),
        ("http://[::1]:3000", ("http://[::1]:3000",)),
    ],
)
def test_origins_are_named_by_commas(
    value: str, origins: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOW_CORS_ORIGINS", value)
    assert Settings.read().cors_origins == origins


@pytest.mark.parametrize(
    "value",
    [
        "app.example.com",
        "https://app.example.com/",
        "https://app.example.com/path",
        "https://me@app.example.com",
        "https://*.example.com",
        "HTTPS://APP.example.com",
        "null",
        "file://",
    ],
)
def test_what_is_no_origin_stops_the_start_with_one_sentence(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOW_CORS_ORIGINS", f"https://good.example.com,{value}")
    with pytest.raises(ConfigurationError) as caught:
        Settings.read()
    assert str(caught.value).startswith(f"FLOW_CORS_ORIGINS: {value!r} is no origin: ")
    assert "\n" not in str(caught.value)
