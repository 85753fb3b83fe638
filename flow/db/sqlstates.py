"""Errors for the SQLSTATEs of Postgres and the codes of PostgREST; the same for both transports.

Flow's functions refuse with ``PT403``, ``PT404``, ``PT409`` and ``PT422``, which PostgREST makes
the HTTP status of its answer. It passes a function's SQLSTATE on as ``code`` and adds its own
``PGRST...`` codes
(https://docs.postgrest.org/en/stable/references/errors.html).
"""

from __future__ import annotations

from flow.errors import (
    CallTakenOver,
    ConfigurationError,
    Conflict,
    DatabaseUnavailable,
    FlowError,
    IllegalTransition,
    InvalidInput,
    NotFound,
    Refused,
    UnpricedModel,
    VersionMismatch,
)

_MISSING = {"42883", "42P01", "3F000", "PGRST202", "PGRST205"}
_FORBIDDEN = {"42501", "401", "403", "PGRST106", "PGRST300", "PGRST301", "PGRST302", "PGRST303"}
_AWAY_CLASSES = {"08", "25", "28", "3D", "40", "53", "55", "57", "58"}
_AWAY = {"PGRST000", "PGRST001", "PGRST002", "PGRST003"}
_REFUSED_VALUE_CLASSES = {"22", "23"}

MIGRATE_HINT = "It lacks Flow's functions: apply the migrations with `flow migrate`."


def error_of(code: str | None, message: str, detail: str | None) -> FlowError:
    """The error to raise for a refusal or failure reported with an error code."""
    code = code or ""
    if code == "PT403":
        return Refused(detail or "forbidden", message)
    if code == "PT404":
        return NotFound(message)
    if code == "PT409":
        if detail == IllegalTransition.code:
            return IllegalTransition(message)
        if detail == CallTakenOver.code:
            return CallTakenOver(message)
        if detail == VersionMismatch.code:
            return VersionMismatch(message)
        return Conflict(message, code=detail)
    if code == "PT422":
        return UnpricedModel(message) if detail == UnpricedModel.code else InvalidInput(message)
    if code in _MISSING:
        return DatabaseUnavailable("The database is not set up yet.", hint=MIGRATE_HINT)
    if code in _FORBIDDEN or (not code and message == "Invalid API key"):
        return ConfigurationError("The database refuses these credentials Flow's functions.")
    if code in _AWAY or _is_server_error(code) or _class_of(code) in _AWAY_CLASSES:
        return DatabaseUnavailable()
    if _class_of(code) in _REFUSED_VALUE_CLASSES:
        return InvalidInput(f"The database cannot hold this: {message}")
    return FlowError(f"The database failed ({code or 'no code'}): {message}")


def _class_of(sqlstate: str) -> str:
    return sqlstate[:2] if len(sqlstate) == 5 else ""


def _is_server_error(http_status: str) -> bool:
    return len(http_status) == 3 and http_status.startswith("5")
