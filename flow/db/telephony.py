"""The calls of `flow.db.database` about telephone numbers and the legs of telephone calls.

Any call may raise `DatabaseUnavailable`; each documents its other errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from flow.db import rows
from flow.db.postgres_json import text_array
from flow.db.transport import TypedCalls
from flow.domain.calls.phone_call import (
    CarrierStatus,
    DialOrder,
    Direction,
    Leg,
    PhoneCall,
    Price,
    State,
)
from flow.domain.limits.api_key import ApiKey


@dataclass(frozen=True, slots=True)
class PhoneNumber:
    """A number of the operator's: its calls are on the budget of ``key``.

    It rings ``agent``, or ``product``'s own bot; with neither, it can only be called from.
    """

    number: str
    key: ApiKey
    agent: str | None
    agent_name: str | None
    product: str | None
    created_at: datetime

    @property
    def rings(self) -> bool:
        """Whether anybody answers when it is called."""
        return self.agent is not None or self.product is not None


class Telephony(TypedCalls):
    """The calls; each is one round trip and one transaction."""

    async def put_number(
        self, number: str, api_key_id: UUID, *, agent: str | None, product: str | None
    ) -> PhoneNumber:
        """Add a number, or change whose it is and what it rings.

        Raises:
            NotFound: there is no such key.
        """
        row = await self._call(
            "put_phone_number",
            p_number=number,
            p_api_key_id=str(api_key_id),
            p_agent=agent,
            p_product=product,
        )
        return _number(row)

    async def list_numbers(self, team_id: str | None = None) -> list[PhoneNumber]:
        """Every number, or those of a team's keys."""
        found = await self._call("list_phone_numbers", p_team_id=team_id)
        return [_number(row) for row in found]

    async def find_number(self, number: str) -> PhoneNumber | None:
        """The number, if it is known here."""
        row = await self._call("find_phone_number", p_number=number)
        return row and _number(row)

    async def remove_number(self, number: str) -> bool:
        """Forget a number; ``False``: it was not known."""
        return bool(await self._call("remove_phone_number", p_number=number))

    async def order(
        self,
        leg_id: UUID,
        thread_id: UUID,
        carrier: str,
        leg: Leg,
        *,
        numbers: tuple[str, str],
        dial_order: DialOrder,
        dial_until: datetime,
        due_secs: float = 0,
    ) -> PhoneCall:
        """Keep a call from one number to another that is to be placed, once however often."""
        call = {
            "id": str(leg_id),
            "workflow_thread_id": str(thread_id),
            "carrier": carrier,
            "leg": leg.value,
            "from_number": numbers[0],
            "to_number": numbers[1],
            "dial_order": dial_order.to_json(),
            "dial_until": dial_until.isoformat(),
        }
        return _phone_call(await self._call("order_phone_call", p_call=call, p_due_secs=due_secs))

    async def begin_dial(self, leg_id: UUID, lease_secs: float) -> PhoneCall | None:
        """Note that the carrier is about to be asked; ``None``: it is not to be, or not yet."""
        row = await self._call("begin_phone_dial", p_id=str(leg_id), p_lease_secs=lease_secs)
        return row and _phone_call(row)

    async def bind(
        self,
        leg_id: UUID,
        thread_id: UUID,
        carrier: str,
        call_id: str,
        *,
        direction: Direction,
        numbers: tuple[str, str],
        due_secs: float,
    ) -> PhoneCall:
        """Note the call that somebody is on; the leg as it is then, perhaps another call's."""
        call = {
            "id": str(leg_id),
            "workflow_thread_id": str(thread_id),
            "carrier": carrier,
            "leg": Leg.CALLER.value,
            "direction": direction.value,
            "from_number": numbers[0],
            "to_number": numbers[1],
            "call_id": call_id,
        }
        return _phone_call(await self._call("bind_phone_call", p_call=call, p_due_secs=due_secs))

    async def claim(self, limit: int, lease_secs: float) -> list[PhoneCall]:
        """The legs that are due, ours alone for so long."""
        found = await self._call("claim_phone_calls", p_limit=limit, p_lease_secs=lease_secs)
        return [_phone_call(row) for row in found]

    async def note(
        self,
        leg_id: UUID,
        *,
        due_secs: float | None = None,
        from_state: State | None = None,
        **changes: Any,
    ) -> PhoneCall | None:
        """Note what is new of a leg; ``None``: it went with its key.

        With a ``state`` among the ``changes`` the leg is due again after ``due_secs``, or never;
        without, it is due no later than that. Where it is in another state than ``from_state``,
        neither its state nor when it is due changes.
        """
        row = await self._call(
            "note_phone_call",
            p_id=str(leg_id),
            p_changes=changes,
            p_due_secs=due_secs,
            p_from_state=from_state and from_state.value,
        )
        return row and _phone_call(row)

    async def get(self, leg_id: UUID) -> PhoneCall | None:
        """A leg, if there is one of this id."""
        row = await self._call("get_phone_call", p_id=str(leg_id))
        return row and _phone_call(row)

    async def find(self, carrier: str, call_id: str) -> PhoneCall | None:
        """The leg that is this call of the carrier's, if one is."""
        row = await self._call("get_phone_call", p_carrier=carrier, p_call_id=call_id)
        return row and _phone_call(row)

    async def of_thread(self, thread_id: UUID) -> list[PhoneCall]:
        """The legs of a thread's call, the first one first."""
        found = await self._call("list_phone_calls", p_thread_id=str(thread_id))
        return [_phone_call(row) for row in found]

    async def known(self, carrier: str, call_ids: Sequence[str]) -> set[str]:
        """Which of these calls of the carrier's are legs."""
        if not call_ids:
            return set()
        found = await self._call(
            "known_phone_calls", p_carrier=carrier, p_call_ids=text_array(call_ids)
        )
        return set(found)


def price_json(price: Price) -> dict[str, str]:
    """A price as it is stored."""
    return {"amount": format(price.amount, "f"), "currency": price.currency}


def _number(row: Mapping[str, Any]) -> PhoneNumber:
    return PhoneNumber(
        number=row["number"],
        key=rows.api_key(row["key"]),
        agent=row["agent"],
        agent_name=row["agent_name"],
        product=row["product"],
        created_at=rows.utc(row["created_at"]),
    )


def _phone_call(row: Mapping[str, Any]) -> PhoneCall:
    price = row["price"]
    return PhoneCall(
        id=UUID(row["id"]),
        thread_id=UUID(row["workflow_thread_id"]),
        carrier=row["carrier"],
        leg=Leg(row["leg"]),
        direction=Direction(row["direction"]),
        from_number=row["from_number"],
        to_number=row["to_number"],
        state=State(row["state"]),
        order=row["dial_order"] and DialOrder.from_json(row["dial_order"]),
        call_id=row["call_id"],
        dial_until=rows.maybe_utc(row["dial_until"]),
        dialled_at=rows.maybe_utc(row["dialled_at"]),
        dials=row["dials"],
        tries=row["tries"],
        status=row["status"] and CarrierStatus(row["status"]),
        answered_by=row["answered_by"],
        transferred_at=rows.maybe_utc(row["transferred_at"]),
        price=price and Price(Decimal(price["amount"]), price["currency"]),
        created_at=rows.utc(row["created_at"]),
    )
