"""Starting: what refuses to, and the one clear sentence it says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from pydantic import SecretStr

from flow.app import asgi as application
from flow.app.transport_settings import check_transports
from flow.errors import ConfigurationError
from flow.settings import Settings

ENOUGH = {"unkey_root_key": SecretStr("unkey_fake"), "openai_api_key": SecretStr("sk-fake")}
LONG_SECRET = SecretStr("x" * 32)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("FLOW_", "OPENAI_", "UNKEY_", "POSTHOG_", "SUPABASE_", "DATABASE_")):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    "settings",
    [
        ENOUGH,
        {"debug": True, "openai_base_url": "http://127.0.0.1:11434/v1"},
        {
            **ENOUGH,
            "daily_api_key": SecretStr("k"),
            "livekit_url": "wss://livekit.example.com/",
            "livekit_api_key": "APIx",
            "livekit_api_secret": SecretStr("x"),
        },
        {**ENOUGH, "database_url": SecretStr("postgresql://x"), "secret": LONG_SECRET},
        {
            **ENOUGH,
            "supabase_url": "https://x.supabase.co",
            "supabase_service_role_key": SecretStr("k"),
            "secret": LONG_SECRET,
        },
    ],
    ids=["embedded", "debug-with-a-local-model", "rooms", "postgres", "supabase"],
)
def test_enough_settings_allow_a_start(settings: dict[str, object]) -> None:
    application.check(Settings(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"openai_api_key": SecretStr("sk-fake")}, "UNKEY_ROOT_KEY is missing"),
        ({"unkey_root_key": SecretStr("unkey_fake")}, "OPENAI_API_KEY is missing"),
        ({**ENOUGH, "supabase_url": "https://x.supabase.co", "secret": LONG_SECRET}, "go together"),
        ({**ENOUGH, "supabase_service_role_key": SecretStr("k")}, "go together"),
        ({**ENOUGH, "database_url": SecretStr("postgresql://x")}, "FLOW_SECRET is missing"),
        ({**ENOUGH, "secret": SecretStr("short")}, "at least 32"),
        ({**ENOUGH, "webhooks_allow_private": True}, "works with FLOW_DEBUG=true only"),
    ],
)
def test_missing_and_contradictory_settings_are_named(
    settings: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said) as refusal:
        application.check(Settings(**settings))  # type: ignore[arg-type]
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"livekit_url": "wss://livekit.example.com"}, "LIVEKIT_API_SECRET go together: set all"),
        ({"livekit_api_key": "APIx"}, "LIVEKIT_API_SECRET go together: set all or none"),
        ({"livekit_api_secret": SecretStr("x")}, "LIVEKIT_API_SECRET go together: set all or none"),
        ({"twilio_account_sid": "ACx"}, "TWILIO_AUTH_TOKEN go together: set both or neither"),
    ],
)
def test_settings_of_a_transport_go_together(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as refusal:
        check_transports(Settings(**settings))  # type: ignore[arg-type]
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "UNKEY_ROOT_KEY is missing"),
        ({"FLOW_PORT": "many"}, "FLOW_PORT: "),
        ({"OPENAI_BASE_URL": "ftp://x"}, "OPENAI_BASE_URL: must be an http"),
        ({"FLOW_INTERRUPTED_STREAMS": "guess"}, "FLOW_INTERRUPTED_STREAMS: "),
        ({"LIVEKIT_URL": "https://livekit.example.com"}, "LIVEKIT_URL: must be a ws"),
        ({"LIVEKIT_URL": "wss://livekit.example.com/rtc"}, "LIVEKIT_URL: must be the address"),
    ],
)
def test_serve_refuses_with_a_sentence_and_no_traceback(
    variables: dict[str, str], said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from flow.cli import main; main()", "serve"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_secret_is_never_part_of_a_refusal() -> None:
    with pytest.raises(ConfigurationError) as refusal:
        application.check(Settings(**ENOUGH, secret=SecretStr("tiny-secret")))  # type: ignore[arg-type]
    assert "tiny-secret" not in str(refusal.value)
    assert "tiny-secret" not in repr(Settings(secret=SecretStr("tiny-secret")))
