"""Every error Flow raises on purpose, as one tree.

    FlowError
     ├─ ConfigurationError       a setting, file or option is missing, wrong or contradictory
     ├─ InvalidInput             a caller's input breaks a rule; carries one problem per field
     │   └─ UnpricedModel        a model without a price, under a budget that could not hold it
     ├─ ContradictoryUsage       a vendor's usage report contradicts itself
     ├─ NotFound                 the thing does not exist, or is not the caller's to see
     ├─ Conflict                 the request contradicts what is already so
     │   ├─ IllegalTransition    a thread cannot move from its state to the one asked for
     │   ├─ CallTakenOver        another process has the call by now
     │   └─ VersionMismatch      what is to be changed was changed since it was read
     ├─ Refused                  the caller may not do this (a key, a permission, a limit)
     ├─ BotFailed                a bot of the operator's own gave its call no pipeline, or broke off
     └─ Unavailable              a party Flow depends on cannot answer now; trying again may help
         ├─ DatabaseUnavailable
         ├─ AuthUnavailable
         ├─ QuotaUnavailable
         ├─ ChecksUnavailable
         ├─ TransportUnavailable
         └─ UpstreamUnavailable     a vendor of models has given the gateway no answer
             └─ UpstreamTimeout

A docstring is the default message. The HTTP answer for each is decided in one place,
``flow.api.problems``; nothing below the API knows about status codes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class FlowError(Exception):
    """Something went wrong in Flow."""

    code: str = "internal_error"

    def __init__(self, message: str | None = None, *, hint: str | None = None) -> None:
        """``message`` may reach a customer. ``hint`` is for the operator alone: commands, settings
        and files of theirs. The command line shows it, the service logs it."""
        doc = (type(self).__doc__ or "").strip().splitlines()
        super().__init__(message or (doc[0] if doc else type(self).__name__))
        self.hint = hint

    @property
    def for_operator(self) -> str:
        """The message with the hint."""
        return f"{self} {self.hint}" if self.hint else str(self)


class ConfigurationError(FlowError):
    """A setting is missing, wrong or contradictory."""

    code = "configuration_error"


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One thing wrong with one field; ``field`` is a dotted path such as ``bot.llm.model``.

    ``hint`` is for the operator alone, as `FlowError`'s.
    """

    field: str
    message: str
    hint: str | None = None


class InvalidInput(FlowError):
    """The input is not valid."""

    code = "invalid_request"

    def __init__(
        self,
        message: str | None = None,
        problems: Sequence[FieldProblem] = (),
        *,
        hint: str | None = None,
    ) -> None:
        hints = dict.fromkeys(filter(None, (hint, *(problem.hint for problem in problems))))
        super().__init__(message, hint=" ".join(hints) or None)
        self.problems = tuple(problems)

    def with_problems(self, problems: Iterable[FieldProblem]) -> InvalidInput:
        """The same, with its problems told otherwise."""
        known = any(problem.hint for problem in self.problems)
        return InvalidInput(str(self), [*problems], hint=None if known else self.hint)


class UnpricedModel(InvalidInput):
    """No price is known for a model, so a budget cannot hold what it costs."""

    code = "model_unpriced"


class ContradictoryUsage(FlowError):
    """A usage report contradicts itself."""

    code = "contradictory_usage"


class NotFound(FlowError):
    """There is no such thing for this key."""

    code = "not_found"


class Conflict(FlowError):
    """The request contradicts the present state."""

    code = "conflict"

    def __init__(self, message: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code or self.code


class IllegalTransition(Conflict):
    """The thread cannot move to that state from where it is."""

    code = "illegal_transition"


class CallTakenOver(Conflict):
    """Another process has the call by now, or it is over."""

    code = "call_taken_over"


class VersionMismatch(Conflict):
    """It was changed since it was read."""

    code = "version_mismatch"


class Refused(FlowError):
    """The request is refused."""

    def __init__(
        self,
        code: str,
        message: str | None = None,
        retry_after_secs: int | None = None,
        limit: Mapping[str, Any] | None = None,
        *,
        hint: str | None = None,
    ) -> None:
        """``limit`` describes the limit that was reached, if it was one."""
        super().__init__(message, hint=hint)
        self.code = code
        self.retry_after_secs = retry_after_secs
        self.limit = limit


class BotFailed(FlowError):
    """A bot of the operator's own failed.

    What an error of Flow's own says is in the message; of any other only its type, since its text
    may hold what was said in the call.
    """

    code = "bot_failed"

    def __init__(self, bot: str, cause: BaseException) -> None:
        self.bot = bot
        self.error_type = type(cause).__name__
        said = str(cause) if isinstance(cause, FlowError) else self.error_type
        hint = cause.hint if isinstance(cause, FlowError) else None
        super().__init__(f"the bot {bot!r} failed: {said}", hint=hint)


class Unavailable(FlowError):
    """A service Flow depends on cannot answer now."""

    code = "unavailable"
    retry_after_secs: int = 5


class DatabaseUnavailable(Unavailable):
    """The database cannot be reached now."""

    code = "database_unavailable"


class AuthUnavailable(Unavailable):
    """The key service cannot be reached now."""

    code = "auth_unavailable"


class QuotaUnavailable(Unavailable):
    """The billing service cannot say now whether the team may go on."""

    code = "quota_unavailable"


class ChecksUnavailable(Unavailable):
    """Schemas cannot be checked now."""

    code = "checks_unavailable"


class TransportUnavailable(Unavailable):
    """The call cannot be carried now."""

    code = "transport_unavailable"


class UpstreamUnavailable(Unavailable):
    """The model's vendor cannot be reached now."""

    code = "upstream_unavailable"


class UpstreamTimeout(UpstreamUnavailable):
    """The model's vendor has not answered in time."""

    code = "upstream_timeout"
