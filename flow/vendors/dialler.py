"""What Flow needs of a carrier that places calls, and how asking it can go wrong."""

from __future__ import annotations

from typing import Protocol

from flow.domain.calls.phone_call import CarrierCall, DialOrder
from flow.errors import FlowError, Unavailable


class NotDialled(Unavailable):
    """The carrier was not asked, or puts us off: the call was certainly not placed."""


class DialUnknown(Unavailable):
    """The carrier may have placed the call, or not: it is to be looked for."""


class DialRefused(FlowError):
    """The carrier will not dial this; asking again is of no use. The message is the carrier's."""

    code = "dial_refused"


class Dialler(Protocol):
    """One account at a carrier that places calls."""

    async def dial(self, from_number: str, to_number: str, order: DialOrder) -> CarrierCall:
        """Have a call placed: one attempt, since a second would be a second call.

        Raises:
            NotDialled, DialUnknown, DialRefused: it was not placed, or nobody knows.
        """
        ...

    async def show(self, call_id: str) -> CarrierCall | None:
        """A call as the carrier has it; ``None``: it has none. Raises `Unavailable`."""
        ...

    async def find(self, from_number: str, to_number: str) -> list[CarrierCall]:
        """The calls that were placed between two numbers, the latest first; a page of them.

        Raises `Unavailable`.
        """
        ...

    async def redirect(self, call_id: str, document: str) -> bool:
        """Have a running call go on with another document; ``False``: it is over.

        Raises `Unavailable`.
        """
        ...

    async def hang_up(self, call_id: str) -> None:
        """End a call; one that is over is left alone. Raises `Unavailable`."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...
