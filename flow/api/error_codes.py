"""The codes of errors, with the status of each answer and what it means to the caller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class ErrorCode(NamedTuple):
    """The status that goes with a code, and what has happened, for the reference."""

    status: int
    meaning: str


REFUSED: Mapping[str, ErrorCode] = {
    "malformed_request": ErrorCode(400, "The body cannot be read as what its type says."),
    "conflicting_credentials": ErrorCode(400, "Two different keys, or a header sent twice."),
    "missing_api_key": ErrorCode(401, "No API key was sent."),
    "invalid_api_key": ErrorCode(401, "The key is none, or none of this service."),
    "expired_api_key": ErrorCode(401, "The key's time is over."),
    "invalid_token": ErrorCode(401, "The token in the URL is not one of this thread."),
    "expired_token": ErrorCode(
        401, "The token's time is over: the same join under its `Idempotency-Key` gives a new one."
    ),
    "invalid_signature": ErrorCode(403, "A webhook was not signed by the carrier."),
    "disabled_api_key": ErrorCode(403, "The key was disabled."),
    "insufficient_permissions": ErrorCode(403, "The key lacks a permission; the detail names it."),
    "model_not_allowed": ErrorCode(403, "The product does not allow the model."),
    "unknown_product": ErrorCode(403, "There is no such product, or not for this."),
    "model_not_found": ErrorCode(404, "The gateway knows no such model of this product."),
    "unknown_agent": ErrorCode(404, "The key's team has no such agent, or not in that version."),
    "not_acceptable": ErrorCode(406, "The answer does not come in what `Accept` asks for."),
    "request_timeout": ErrorCode(408, "The request took too long to arrive."),
    "payload_too_large": ErrorCode(413, "The body is larger than what is taken."),
    "unsupported_media_type": ErrorCode(415, "The body has a type or encoding that is not taken."),
    "headers_too_large": ErrorCode(431, "The request has too many headers, or too long ones."),
    "rate_limited": ErrorCode(429, "The key sends more requests than it may, says Unkey."),
    "quota_exceeded": ErrorCode(429, "The team has used up a quota; `limit` says which."),
    "budget_exceeded": ErrorCode(429, "The key's budget for the month does not allow it."),
    "concurrency_exceeded": ErrorCode(429, "As many calls are running as may run at once."),
    "unkey_not_set_up": ErrorCode(501, "The service has no root key of Unkey's, or no API there."),
    "root_key_unknown": ErrorCode(503, "Unkey does not know the service's root key."),
    "root_key_permission": ErrorCode(503, "The root key lacks a permission at Unkey."),
    "at_capacity": ErrorCode(503, "This process has no room for another call, or request."),
    "shutting_down": ErrorCode(503, "This process is being stopped: another one takes the call."),
}
"""Codes of `flow.errors.Refused`."""

CODES: Mapping[str, ErrorCode] = {
    **REFUSED,
    "not_found": ErrorCode(404, "There is no such thing for this key, or nothing at this path."),
    "method_not_allowed": ErrorCode(405, "The path takes other methods; `Allow` names them."),
    "conflict": ErrorCode(409, "The request contradicts the present state."),
    "idempotency_conflict": ErrorCode(
        409, "Another request was made before under the same `Idempotency-Key`."
    ),
    "agent_name_taken": ErrorCode(409, "The team has another agent of that name."),
    "agent_archived": ErrorCode(409, "The agent is archived: no new call can have it."),
    "illegal_transition": ErrorCode(409, "The thread is past the state that the request is for."),
    "not_connectable": ErrorCode(409, "The call is under way or over, and takes no connection."),
    "already_connected": ErrorCode(409, "The call has another connection."),
    "wrong_transport": ErrorCode(409, "The thread was joined for another transport."),
    "version_mismatch": ErrorCode(412, "It was changed since the version that `If-Match` names."),
    "invalid_request": ErrorCode(422, "The input breaks a rule; `errors` has the fields."),
    "model_unpriced": ErrorCode(
        422, "A model has no price, and the key has a budget, which could not hold what it costs."
    ),
    "internal_error": ErrorCode(500, "A mistake of Flow's own, logged under the request id."),
    "upstream_unavailable": ErrorCode(502, "No vendor of the model has answered."),
    "database_unavailable": ErrorCode(503, "The database cannot be reached now."),
    "auth_unavailable": ErrorCode(503, "Keys cannot be verified now."),
    "quota_unavailable": ErrorCode(
        503, "The operator's billing service cannot say now whether the team may go on."
    ),
    "checks_unavailable": ErrorCode(503, "Schemas cannot be checked now."),
    "transport_unavailable": ErrorCode(503, "The room cannot be opened now."),
    "upstream_timeout": ErrorCode(504, "The model's vendor has not answered in time."),
}
"""Every code of a problem."""
