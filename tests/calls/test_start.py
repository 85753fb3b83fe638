"""What a service warns of when it starts."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from flow.app.start_warnings import start_warnings
from flow.domain.products.product import ModelName
from flow.settings import Settings
from tests.calls.conftest import Serve
from tests.calls.test_call import SHORT, stood_in

QUOTAS = {"quota_url": "https://billing.example.com/quota"}
WARNINGS = {
    "debug_keys",
    "feature_flag_bypassed",
    "models_unpriced",
    "posthog_absent",
    "private_webhooks_allowed",
    "quota_source_absent",
    "workflows_not_durable",
}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (QUOTAS, set()),
        ({}, {"quota_source_absent"}),
        ({**QUOTAS, "posthog_api_key": None}, {"posthog_absent"}),
        (
            {
                "debug": True,
                "unkey_root_key": None,
                "posthog_api_key": None,
                "cost_controls": "on",
                "webhooks_allow_private": True,
                "llm_model": "gpt-9-ultra",
            },
            WARNINGS - {"workflows_not_durable"},
        ),
    ],
    ids=["nothing-is-off", "quotas", "posthog", "all-that-can-be"],
)
async def test_the_start_warns_once_of_what_is_off_or_bypassed(
    settings: dict[str, Any], expected: set[str], serving: Serve
) -> None:
    async with stood_in(SHORT) as standing:
        with capture_logs() as logged:
            async with serving(standing, **settings):
                pass
    warned = [line for line in logged if line["event"] in WARNINGS]
    assert sorted(line["event"] for line in warned) == sorted(expected)
    for line in warned:
        assert line["log_level"] == "warning"
        assert line["meaning"]
        assert line["setting"]


@pytest.mark.parametrize(
    ("settings", "event", "said"),
    [
        ({}, "posthog_absent", "flow-cost-controls is unknown, so save mode is off"),
        ({}, "posthog_absent", "POSTHOG_API_KEY"),
        ({}, "quota_source_absent", "FLOW_QUOTA_URL"),
        ({"cost_controls": "off"}, "feature_flag_bypassed", "save mode is off for every key"),
        ({"cost_controls": "on"}, "feature_flag_bypassed", "FLOW_COST_CONTROLS"),
        ({}, "debug_keys", "UNKEY_ROOT_KEY"),
        ({}, "models_unpriced", "openai/odd (FLOW_LLM_MODEL)"),
        ({"supabase_url": "https://x.supabase.co"}, "workflows_not_durable", "DATABASE_URL"),
    ],
)
def test_a_warning_says_what_follows_and_what_to_set(
    settings: dict[str, Any], event: str, said: str
) -> None:
    unpriced = {"FLOW_LLM_MODEL": ModelName("openai", "odd")}
    (found,) = [one for one in start_warnings(Settings(**settings), unpriced) if one.event == event]
    assert said in found.meaning + found.setting


def test_with_the_flag_bypassed_a_missing_posthog_does_not_switch_save_mode_off() -> None:
    (found,) = [
        one
        for one in start_warnings(Settings(cost_controls="on", quota_url="http://x"), {})
        if one.event == "posthog_absent"
    ]
    assert "save mode" not in found.meaning


def test_where_nothing_is_off_nothing_is_said() -> None:
    settings = Settings(
        unkey_root_key=SecretStr("x"), posthog_api_key=SecretStr("x"), quota_url="https://x"
    )
    assert list(start_warnings(settings, {})) == []
