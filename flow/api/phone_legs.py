"""The legs of a thread's telephone call, for whoever the thread belongs to."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, Field

from flow.api.dependencies import Services
from flow.domain.calls.phone_call import CarrierStatus, Direction, Leg
from flow.domain.calls.thread import Thread


class PhoneLegView(BaseModel):
    """A leg of a telephone call. Its price is a row of the thread's usage, with the same id."""

    id: UUID = Field(description="Of the leg, and of the ledger's row with its price.")
    leg: Leg = Field(description="Whom it connects: the bot's caller, or a transfer's target.")
    direction: Direction = Field(description="Who placed it.")
    from_number: str = Field(examples=["+4930111111"], description="The number it comes from.")
    to_number: str = Field(examples=["+4930222222"], description="The number that was called.")
    call_id: str | None = Field(description="The carrier's id of it, once it has one.")
    status: CarrierStatus | None = Field(description="The carrier's last word.")
    answered_by: str | None = Field(description="`human`, or the machine that answered.")
    transferred_at: datetime | None = Field(description="When the caller was passed on.")


async def phone_legs(services: Services, thread: Thread) -> list[PhoneLegView]:
    """The legs; none of a call that is not by telephone."""
    if thread.join.transport.type not in services.transports.streams:
        return []
    legs = await services.database.telephony.of_thread(thread.id)
    names = PhoneLegView.model_fields
    return [PhoneLegView(**{name: getattr(leg, name) for name in names}) for leg in legs]
