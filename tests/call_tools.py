"""What tools use, for pipelines of calls that use none."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import httpx2

from flow.bot.tools.open_tools import ToolSettings
from flow.insights.schema_checker import Checker


async def _no_secrets(_api_key_id: UUID) -> Sequence[str]:
    return ()


UNUSED_TOOLS = ToolSettings(
    httpx2.MockTransport(lambda _: httpx2.Response(500)), _no_secrets, Checker().problems
)
"""Of calls that name no tools."""
