"""A function of the customer's own, called by HTTP."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, quote_plus, urlencode, urlsplit, urlunsplit
from uuid import UUID

from flow.bot.tools.tool import ToolAnswer, ToolUse, answered, failed
from flow.domain.calls.tool_call import ToolOutcome
from flow.domain.calls.tools import HttpTool as Described
from flow.errors import Unavailable
from flow.vendors.tool_client import IN_QUERY, ToolCallFailed, ToolClient, ToolRequest
from flow.vendors.webhook_resolver import NotPublic

Secrets = Callable[[], Awaitable[Sequence[str]]]
"""The secrets that sign what the key is sent, the current one first; raises `Unavailable`."""


class HttpTool:
    """The tool in one call.

    Args:
        described: the tool as the join has it, with its variables filled in.
        thread_id: the call's.
        call: what the tool is told of the call.
        secrets: sign the requests.
    """

    def __init__(
        self,
        described: Described,
        client: ToolClient,
        thread_id: UUID,
        call: Mapping[str, Any],
        secrets: Secrets,
    ) -> None:
        self.name = described.name
        self.description = described.description
        self.parameters: Mapping[str, Any] = described.parameters
        self.timeout_secs = described.timeout_secs
        self.say_while_waiting = described.say_while_waiting
        self._described = described
        self._client = client
        self._thread_id = thread_id
        self._call = call
        self._secrets = secrets

    async def use(self, use: ToolUse) -> ToolAnswer:
        """Call the tool, and read its answer."""
        try:
            secrets = await self._secrets()
        except Unavailable:
            return failed("the request could not be signed, and was not sent", ToolOutcome.REFUSED)
        try:
            reply = await self._client.call(self._request(use, secrets))
        except ToolCallFailed as error:
            is_refused = isinstance(error.__cause__, NotPublic)
            outcome = ToolOutcome.REFUSED if is_refused else ToolOutcome.FAILED
            return failed(str(error), outcome, error.status)
        return answered(reply.result, reply.status)

    def _request(self, use: ToolUse, secrets: Sequence[str]) -> ToolRequest:
        described, headers = self._described, self._described.plain_headers
        url, body = described.url, ""
        if described.method in IN_QUERY:
            url = with_query(url, use.arguments)
            headers = {
                **headers,
                "x-flow-tool": self.name,
                "x-flow-workflow-thread-id": str(self._thread_id),
            }
        else:
            told = {
                "tool": self.name,
                "arguments": use.arguments,
                "workflow_thread_id": str(self._thread_id),
                "call": self._call,
            }
            body = json.dumps(told, ensure_ascii=False, allow_nan=False)
        return ToolRequest(use.id, described.method, url, headers, body, secrets)


def with_query(url: str, arguments: Mapping[str, Any]) -> str:
    """The URL with the arguments in its query.

    Texts and numbers stand as they are, a list's each by themselves; objects are JSON; what is
    null is left out. So is what the URL's own query names: no model says it differently.
    """
    parts = urlsplit(url)
    own = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
    pairs = [
        (name, _text(item))
        for name, value in arguments.items()
        for item in (value if isinstance(value, list) else [value])
        if item is not None and name not in own
    ]
    query = "&".join(filter(None, [parts.query, urlencode(pairs, quote_via=quote_plus)]))
    return urlunsplit(parts._replace(query=query, fragment=""))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
