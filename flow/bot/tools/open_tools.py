"""From the tools that a join names to those of its call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import httpx2
import structlog
from pipecat.frames.frames import Frame

from flow.bot.tools.call_actions import EndCall, SendDtmf, TransferCall
from flow.bot.tools.call_tools import CallTools, CheckArguments, RecordsUses
from flow.bot.tools.http_tool import HttpTool
from flow.bot.tools.mcp_tools import close_servers, open_servers
from flow.bot.tools.tool import BotTool, CallControl
from flow.bot.tools.voice import ToolVoice
from flow.domain.calls import tools as described
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.thread import Thread
from flow.errors import FlowError
from flow.vendors.tool_client import ToolClient

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ToolSettings:
    """What the tools of every call of a process use.

    Args:
        network: reaches public addresses only; see `flow.vendors.public_http.PublicTransport`.
        secrets: of a key, which sign what it is sent, the current one first.
        check: finds what is wrong with arguments.
    """

    network: httpx2.AsyncBaseTransport
    secrets: Callable[[UUID], Awaitable[Sequence[str]]]
    check: CheckArguments


async def open_tools(
    thread: Thread,
    join: JoinRequest,
    control: CallControl | None,
    settings: ToolSettings,
    recorder: RecordsUses,
    speak: Callable[[str], Frame],
) -> CallTools:
    """The tools of a call. Servers with tools of their own have a few seconds to say what these
    are; one that does not is left out, and the call goes on without.

    Args:
        control: acts on the call, where its transport can.
        speak: makes the frame that has the bot say a text.

    Raises:
        RuntimeError: a tool acts on the call and there is no ``control``, though joins that name
            such a tool are refused where the transport has none.
    """
    voice = ToolVoice(speak, name="tool_voice")
    made = _Maker(thread, join, control, settings, voice)
    await made.secrets.fetch()
    tools = [tool for one in join.bot.tools if (tool := made.tool(one)) is not None]
    mcp = [one for one in join.bot.tools if isinstance(one, described.McpTool)]
    servers, functions = await open_servers(mcp, settings.network, settings.check)
    taken = {tool.name for tool in tools}
    for function in functions:
        is_taken = function.name in taken
        if is_taken or len(taken) >= described.MAX_TOOLS:
            problem = "the name is taken" if is_taken else "there are too many tools"
            log.warning("mcp_tool_left_out", tool=function.name, problem=problem)
            continue
        taken.add(function.name)
        tools.append(function)
    return CallTools(
        thread.id,
        tools,
        voice,
        recorder,
        settings.check,
        language=join.bot.language,
        earlier=thread.tool_calls,
        close=partial(close_servers, servers),
    )


class _Maker:
    def __init__(
        self,
        thread: Thread,
        join: JoinRequest,
        control: CallControl | None,
        settings: ToolSettings,
        voice: ToolVoice,
    ) -> None:
        self._thread = thread
        self._client = ToolClient(settings.network)
        self._control = control
        self._voice = voice
        self._call: Mapping[str, Any] = {
            "product": thread.product,
            "transport": join.transport.type,
            "language": join.bot.language,
            "metadata": thread.metadata,
        }
        self.secrets = _Secrets(partial(settings.secrets, thread.api_key_id))

    def tool(self, one: Any) -> BotTool | None:
        """The tool; ``None`` for a server's, which has many."""
        match one:
            case described.HttpTool():
                return HttpTool(one, self._client, self._thread.id, self._call, self.secrets)
            case described.EndCallTool():
                return EndCall(self._voice)
            case described.TransferCallTool():
                return TransferCall(one, self._control_for(one.type), self._voice)
            case described.SendDtmfTool():
                return SendDtmf(self._control_for(one.type))
        return None

    def _control_for(self, tool: str) -> CallControl:
        if self._control is None:
            raise RuntimeError(f"this call over {self._call['transport']} has no {tool}")
        return self._control


class _Secrets:
    """A key's secrets, read once a call: those before a rotation sign for longer than one lasts."""

    def __init__(self, read: Callable[[], Awaitable[Sequence[str]]]) -> None:
        self._read = read
        self._known: Sequence[str] | None = None

    async def __call__(self) -> Sequence[str]:
        """The secrets, or `Unavailable`."""
        if self._known is None:
            self._known = await self._read()
        return self._known

    async def fetch(self) -> None:
        """Have them ready, if that works now."""
        with suppress(FlowError):
            await self()
