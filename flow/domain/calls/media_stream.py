"""Media streams of a telephone company: one call, one stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MediaStream:
    """A stream that has started: its own id, its call's, and the token that it brought."""

    stream_id: str
    call_id: str
    token: str


@dataclass(frozen=True, slots=True)
class CarrierRequest:
    """A request of a telephone company to our webhook.

    ``url`` is what the carrier asked, ``form`` the fields of the body in their order; names of
    headers are in lower case.
    """

    url: str
    headers: Mapping[str, str]
    form: Sequence[tuple[str, str]]
