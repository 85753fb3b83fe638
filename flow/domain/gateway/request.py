"""A request to the gateway: who makes it, and what it says beside its body."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flow.domain.limits.api_key import ApiKey
from flow.domain.limits.budget import Budget
from flow.domain.limits.lease import Rates

RawHeaders = Sequence[tuple[bytes, bytes]]


def _unnoted(_: object) -> None:
    pass


@dataclass(frozen=True, slots=True)
class GatewayRequest:
    """The head of a request whose key is verified.

    Args:
        product: the name in its path; ``None``: the path names none.
        permissions: those of the key at Unkey.
        headers: as they came, with names in lower case.
        query: as it came, without the question mark.
        note_budget: told the budget that the answer's headers are to show.
        note_rates: told the limits a minute that they are to show.
    """

    key: ApiKey
    permissions: frozenset[str]
    product: str | None
    request_id: str
    headers: RawHeaders = ()
    query: bytes = b""
    note_budget: Callable[[Budget | None], None] = _unnoted
    note_rates: Callable[[Rates | None], None] = _unnoted

    def header(self, name: bytes) -> str | None:
        """The value of the first header of that name."""
        found = (value for known, value in self.headers if known == name)
        value = next(found, None)
        return None if value is None else value.decode("latin-1").strip()
