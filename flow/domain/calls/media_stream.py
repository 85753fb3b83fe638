"""Media streams of a telephone company: one call, one stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flow.domain.calls.phone_call import CarrierStatus


@dataclass(frozen=True, slots=True)
class MediaStream:
    """A stream that has started: its own id, its call's, and the token that it brought."""

    stream_id: str
    call_id: str
    token: str


@dataclass(frozen=True, slots=True)
class CarriedCall:
    """A call that a webhook is asked about: the carrier's id, and the numbers of both ends as the
    carrier gives them (empty where it does not)."""

    call_id: str
    caller: str = ""
    called: str = ""


@dataclass(frozen=True, slots=True)
class CallNews:
    """What a carrier says of a call by itself: its status, or who answered it, as far as said."""

    call_id: str
    status: CarrierStatus | None = None
    answered_by: str | None = None


@dataclass(frozen=True, slots=True)
class CarrierRequest:
    """A request of a telephone company to our webhook.

    ``url`` is what the carrier asked, ``form`` the fields of the body in their order; names of
    headers are in lower case.
    """

    url: str
    headers: Mapping[str, str]
    form: Sequence[tuple[str, str]]
