"""The failures of a call's services: which failed first, by what, and how many in a row."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pipecat.frames.frames import ErrorFrame

from flow.bot.services import CallServices
from flow.domain.calls.ending import Ending, EndReason

FAILURES_IN_A_ROW = 5


@dataclass(frozen=True, slots=True)
class ServiceFailure:
    """A service of the call that failed: its name in the pipeline, its vendor, and by what."""

    service: str
    provider: str | None
    error_type: str | None
    http_status: int | None

    @property
    def known(self) -> dict[str, Any]:
        """All of it, for a log line."""
        return asdict(self)

    def to_error(self) -> dict[str, Any]:
        """It as the error of a thread."""
        causes = [self.error_type, f"HTTP {self.http_status}" if self.http_status else None]
        cause = ", ".join(cause for cause in causes if cause) or "no answer that could be used"
        message = f"the {self.service} service failed: {cause}"
        return {"code": EndReason.VENDOR_FAILURE.value, **self.known, "message": message}


class ServiceFailures:
    """Counts failures: a call survives some, but not a service that is gone."""

    def __init__(self, services: CallServices) -> None:
        self._services = services
        self._first: ServiceFailure | None = None
        self.in_a_row = 0

    def add(self, frame: ErrorFrame) -> ServiceFailure:
        """Count a failure that Pipecat reports."""
        failure = self._failure_of(frame)
        self.in_a_row += 1
        self._first = self._first or failure
        return failure

    def forget(self) -> None:
        """A service has worked."""
        self.in_a_row, self._first = 0, None

    @property
    def are_too_many(self) -> bool:
        """Whether the call cannot go on."""
        return self.in_a_row >= FAILURES_IN_A_ROW

    @property
    def ending(self) -> Ending:
        """How a call ends that cannot go on: the first service that failed is the cause."""
        assert self._first is not None, "nothing has failed"
        return Ending(EndReason.VENDOR_FAILURE, self._first.to_error())

    def _failure_of(self, frame: ErrorFrame) -> ServiceFailure:
        """What failed, and by what: Pipecat's frame often says that in words alone, which may hold
        content; the service's meter has seen it on the wire."""
        name = frame.processor.name if frame.processor else "pipeline"
        meter = self._services.meter_of(name)
        seen = meter.failure if meter is not None else None
        raised = frame.exception
        status = seen.http_status if seen else getattr(raised, "status_code", None)
        return ServiceFailure(
            service=name,
            provider=meter.service.provider if meter is not None else None,
            error_type=seen.type if seen else type(raised).__name__ if raised else None,
            http_status=status if isinstance(status, int) else None,
        )
