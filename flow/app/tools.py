"""What the tools of all calls use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import UUID

from flow.app.shared_resources import Resources
from flow.insights.schema_checker import Checker
from flow.vendors.public_http import PublicTransport
from flow.vendors.webhook_signing import new_secret

if TYPE_CHECKING:
    from flow.bot.tools.open_tools import ToolSettings


@asynccontextmanager
async def open_tool_settings(resources: Resources) -> AsyncIterator[ToolSettings]:
    """Give what tools use; leaving the block closes the network that they call over."""
    from flow.bot.tools.open_tools import ToolSettings

    network = PublicTransport(allow_private=resources.settings.may_reach_private)
    webhooks = resources.database.webhooks

    async def secrets(api_key_id: UUID) -> Sequence[str]:
        return (await webhooks.secrets(api_key_id, new_secret())).signing

    try:
        yield ToolSettings(network, secrets, Checker().problems)
    finally:
        await network.aclose()
