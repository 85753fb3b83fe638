"""Whose call it is, for what Pipecat logs and traces by itself.

Flow's own code is told by arguments and bound loggers. Pipecat's is not Flow's to change: it logs
through loguru and starts its conversation span where OpenTelemetry says it stands, and both
libraries keep that in their own context, which tasks inherit. This is the one place that sets it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from loguru import logger

from flow.domain.calls.thread import Thread
from flow.domain.calls.trace_parent import TraceParent
from flow.domain.usage.events import Owner

Joined = Callable[[TraceParent | None], AbstractContextManager[None]]
"""Makes spans that are started in its block part of a trace, or of one of their own."""


@contextmanager
def named(thread: Thread, joined: Joined | None) -> Iterator[None]:
    """Tasks started in this block log and trace as ``thread``'s; without ``joined``, only log."""
    trace = nullcontext() if joined is None else joined(thread.trace)
    with logger.contextualize(workflow_thread_id=str(thread.id)), trace:
        yield


def span_attributes(owner: Owner) -> dict[str, str]:
    """What the span of a conversation says of whose it is."""
    return {
        "workflow_thread_id": str(owner.workflow_thread_id),
        "api_key_id": str(owner.api_key_id),
        "team_id": owner.team_id,
        "ai_product": owner.product,
    }
