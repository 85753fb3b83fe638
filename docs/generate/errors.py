"""Every code of an error: from the table of refusals and the tree of errors."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator

from flow import errors
from flow.api.error_codes import CODES
from generate.markdown import Descriptions, code, page, table

_INTRO = """\
An error is answered as problem details (RFC 9457), `application/problem+json`:

```json
{"type": "about:blank", "title": "Unprocessable Content", "status": 422,
 "detail": "The request is not valid.", "code": "invalid_request",
 "request_id": "5f0c7b0e9d5c4f0f8a54d4f4a5a7c6de",
 "errors": [{"field": "bot.llm.temperature", "message": "Input should be less than or equal to 2"}]}
```

Programs may rely on `code`; sentences may change. `errors` has an entry for each wrong field,
`limit` the limit that was reached, and `retry_after`, which is also in the header `Retry-After`,
says after how many seconds trying again may help. `X-Request-Id` is on every answer. On the paths
of the [LLM gateway](../guides/gateway.md) the same codes come in the envelope of the protocol:
`{"error": {"message", "type", "code"}}` as OpenAI has it, or Anthropic's.

A handshake of a WebSocket is refused with the same answers; how a call that was under way is
closed is told by [close codes](../guides/calls.md#how-a-call-ends)."""

_TREE = """\
## The tree of errors

What Flow raises on purpose, for those who read the code or write [a bot of their
own](../guides/bots.md); the module's own words:"""


def errors_page(descriptions: Descriptions) -> str:
    """The reference of errors."""
    rows = [
        [code(one.status), code(name), descriptions.of(f"error code {name}", one.meaning)]
        for name, one in sorted(CODES.items(), key=lambda item: (item[1].status, item[0]))
    ]
    for name in _raised():
        if name not in CODES:
            descriptions.missing.append(f"error code {name} of flow.errors in flow.api.error_codes")
    tree = (errors.__doc__ or "").partition("\n\n")[2].partition("\n\n")[0]
    return page(
        "Errors",
        _INTRO,
        table(["status", "code", "meaning"], rows),
        _TREE,
        f"```text\n{textwrap.dedent(tree)}\n```",
    )


def _raised() -> Iterator[str]:
    """The codes of the errors that a request may meet."""
    inside: set[type[errors.FlowError]] = {
        errors.FlowError, errors.ConfigurationError, errors.ContradictoryUsage, errors.BotFailed,
        errors.CallTakenOver, errors.Refused, errors.Unavailable,
    }  # fmt: skip
    for one in vars(errors).values():
        if inspect.isclass(one) and issubclass(one, errors.FlowError) and one not in inside:
            yield one.code
