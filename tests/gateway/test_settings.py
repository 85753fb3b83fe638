"""What the gateway is set to."""

from __future__ import annotations

from pathlib import Path

import pytest

from flow.errors import ConfigurationError
from tests.gateway.conftest import running


async def test_the_usual_product_is_one_that_the_gateway_serves(
    postgres_url: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="FLOW_GATEWAY_PRODUCT: 'calls' is not served"):
        async with running(postgres_url, tmp_path, gateway_product="calls"):
            pass


async def test_another_product_is_that_of_requests_that_name_none(
    postgres_url: str, tmp_path: Path
) -> None:
    async with running(postgres_url, tmp_path, gateway_product="little") as world:
        caller = await world.caller(["product.small"])
        answer = await caller.openai.chat.completions.create(
            model="gpt-4.1-mini", messages=[{"role": "user", "content": "Hello!"}]
        )
        assert answer.choices
        assert (await caller.row())["product"] == "small"
