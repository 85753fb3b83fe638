"""The tools of a call, as its join names them."""

from __future__ import annotations

from typing import Any

import pytest
from pipecat.frames.frames import TTSSpeakFrame

from flow.bot.tools.open_tools import open_tools
from tests.bot.test_first_standing import a_thread
from tests.call_tools import UNUSED_TOOLS
from tests.notebook import Notebook


@pytest.mark.parametrize(
    "tool",
    [{"type": "transfer_call", "targets": {"sales": "+493012345"}}, {"type": "send_dtmf"}],
    ids=lambda tool: tool["type"],
)
async def test_no_tool_of_a_join_is_left_out_of_its_call_in_silence(tool: dict[str, Any]) -> None:
    thread = a_thread("Hi.")
    bot = type(thread.join.bot).model_validate({"tools": [tool]})
    join = thread.join.model_copy(update={"bot": bot})
    with pytest.raises(RuntimeError, match=tool["type"]):
        await open_tools(thread, join, None, UNUSED_TOOLS, Notebook(), TTSSpeakFrame)
