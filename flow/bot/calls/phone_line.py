"""What a bot can do with its telephone line: pass the caller on, and press keys.

A transfer is a second call, which is placed while the caller stays with the bot: a target that is
busy costs nobody the conversation. Once the target answers, both calls go on in a conference of the
carrier's, and the caller's media stream ends with that. A target of a *warm* transfer is first told
what it is about, by the carrier's voice, while the caller waits in the conference.

Keys are pressed as sound: carriers take no keys over a media stream, and ``<Play digits>`` would
end the stream (https://www.twilio.com/docs/voice/twiml/play#attributes-digits).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID, uuid4

import structlog
from pipecat.audio.dtmf.types import KeypadEntry
from pipecat.frames.frames import OutputDTMFFrame
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import BaseTransport

from flow.bot.tools.tool import ToolFailed
from flow.domain.calls.phone_call import (
    CarrierCall,
    CarrierStatus,
    DialOrder,
    Direction,
    Leg,
    PhoneCall,
    State,
    caller_leg,
)
from flow.domain.calls.phone_number import may_be_dialled
from flow.domain.calls.phone_rules import recognised
from flow.domain.calls.spoken import voice_language
from flow.domain.calls.thread import Thread
from flow.errors import FlowError, Unavailable
from flow.vendors.dialler import Dialler, DialUnknown

log = structlog.get_logger(__name__)

RING_SECS = 25
# Until a target counts as one that does not answer, whatever the carrier says of it.
ANSWER_SECS = RING_SECS + 10.0
# A transferred call is the carrier's to end when nobody else does.
LONGEST_SECS = 4 * 3600
POLL_SECS = 1.0
LOOKS = 2
FIRST_LOOK_SECS = 10.0
# Nobody else dials this leg meanwhile: see `flow.workflows.phone_work`.
LEASE_SECS = 90.0
WAIT_SECS = 0.5
BETWEEN_KEYS_SECS = 0.1

_NOT_REACHED = {
    CarrierStatus.BUSY: "The line is busy.",
    CarrierStatus.NO_ANSWER: "Nobody answered.",
}


class Legs(Protocol):
    """What a line needs of `flow.db.telephony.Telephony`."""

    async def get(self, leg_id: UUID) -> PhoneCall | None: ...  # noqa: D102
    async def order(  # noqa: D102
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
    ) -> PhoneCall: ...
    async def known(self, carrier: str, call_ids: Sequence[str]) -> set[str]: ...  # noqa: D102
    async def begin_dial(self, leg_id: UUID, lease_secs: float) -> PhoneCall | None: ...  # noqa: D102
    async def note(  # noqa: D102
        self,
        leg_id: UUID,
        *,
        due_secs: float | None = None,
        from_state: State | None = None,
        **changes: object,
    ) -> PhoneCall | None: ...


Bridge = Callable[[str, str | None, str | None], bytes]
"""XML that puts a call into a conference of this name, after a text in a language, or at once."""


@dataclass(frozen=True, slots=True)
class CarrierLines:
    """What the lines of a carrier share.

    Args:
        name: of the carrier's transport.
        prefixes: how the numbers begin that callers may be passed on to.
    """

    name: str
    dialler: Dialler | None
    legs: Legs
    bridge: Bridge | None
    prefixes: Sequence[str] = ()
    poll_secs: float = POLL_SECS


class PhoneLine:
    """The line of one call, as a `flow.bot.tools.tool.CallControl`.

    Args:
        call_id: the carrier's, of the caller's leg.
        transport: the call's, once it is made.
    """

    def __init__(
        self,
        shared: CarrierLines,
        thread: Thread,
        call_id: str,
        transport: Callable[[], BaseTransport | None],
    ) -> None:
        self._shared = shared
        self._thread = thread
        self._call_id = call_id
        self._transport = transport
        self._is_transferred = False

    @property
    def is_transferred(self) -> bool:
        """Whether the caller is somebody else's by now, and not to be hung up on."""
        return self._is_transferred

    async def transfer(self, number: str, announcement: str | None = None) -> None:
        """Pass the caller on to a number, once somebody has answered there.

        Raises:
            ToolFailed: nobody has, or may be asked to; the caller is still with the bot.
        """
        shared = self._shared
        if shared.dialler is None or shared.bridge is None:
            raise ToolFailed("Calls cannot be passed on here.")
        if not may_be_dialled(number, shared.prefixes):
            log.warning("transfer_not_allowed", workflow_thread_id=str(self._thread.id))
            raise ToolFailed("Calls to this number are not allowed.")
        leg_id = uuid4()
        room = f"flow-{leg_id}"
        language = voice_language(self._thread.join.bot.language)
        document = shared.bridge(room, announcement, language).decode()
        try:
            call_id = await self._placed(shared.dialler, leg_id, number, document)
        except Unavailable as error:
            raise ToolFailed("The telephone company does not answer.") from error
        try:
            await self._until_answered(shared.dialler, leg_id, call_id)
            await self._bridge(shared.dialler, leg_id, shared.bridge(room, None, None).decode())
        except BaseException as error:
            # Nobody is to be left alone in the conference, whoever gave up.
            with suppress(FlowError):
                await asyncio.shield(shared.dialler.hang_up(call_id))
            if isinstance(error, Unavailable):
                raise ToolFailed("The telephone company does not answer.") from error
            raise
        log.info("call_transferred", workflow_thread_id=str(self._thread.id))

    async def send_dtmf(self, digits: str) -> None:
        """Press these keys (``0-9*#``, ``w`` waits half a second), and return when it is done.

        Raises:
            ToolFailed: the line is gone.
        """
        transport = self._transport()
        output = None if transport is None else transport.output()
        if not isinstance(output, BaseOutputTransport):
            raise ToolFailed("There is no line to press keys on.")
        for digit in digits:
            if digit == "w":
                await asyncio.sleep(WAIT_SECS)
            else:
                await output.write_dtmf(OutputDTMFFrame(buttons=[KeypadEntry(digit)]))
                await asyncio.sleep(BETWEEN_KEYS_SECS)

    async def _placed(self, dialler: Dialler, leg_id: UUID, number: str, document: str) -> str:
        """Have the target called; the carrier's id of the call."""
        legs = self._shared.legs
        ours = await legs.get(caller_leg(self._thread.id))
        if ours is None:
            raise ToolFailed("The number of this call is not known.")
        inbound = ours.direction is Direction.INBOUND
        from_number = ours.to_number if inbound else ours.from_number
        order = DialOrder(RING_SECS, LONGEST_SECS, document=document)
        await legs.order(
            leg_id,
            self._thread.id,
            self._shared.name,
            Leg.TRANSFER,
            numbers=(from_number, number),
            dial_order=order,
            dial_until=datetime.now(UTC),
            due_secs=LEASE_SECS,
        )
        begun = await legs.begin_dial(leg_id, LEASE_SECS)
        if begun is None:
            raise ToolFailed("Somebody else is being passed on to that number; try again later.")
        try:
            call = await self._dialled(dialler, begun, order)
        except BaseException:
            # Should it ring after all, `flow.workflows.phone_work` finds it and hangs up.
            with suppress(FlowError):
                await asyncio.shield(legs.note(leg_id, due_secs=0))
            raise
        await legs.note(
            leg_id,
            state=State.LIVE,
            call_id=call.call_id,
            due_secs=RING_SECS + LEASE_SECS,
            from_state=State.DIALLING,
        )
        return call.call_id

    async def _dialled(self, dialler: Dialler, leg: PhoneCall, order: DialOrder) -> CarrierCall:
        """One attempt; a call that may have been placed is looked for, and not dialled again."""
        try:
            return await dialler.dial(leg.from_number, leg.to_number, order)
        except DialUnknown as error:
            for _ in range(LOOKS):
                await asyncio.sleep(self._shared.poll_secs)
                found = await dialler.find(leg.from_number, leg.to_number)
                known = await self._shared.legs.known(leg.carrier, [c.call_id for c in found])
                if (call := recognised(leg, found, known)) is not None:
                    return call
            raise ToolFailed("The telephone company does not answer.") from error
        except FlowError as error:
            await self._shared.legs.note(leg.id, state=State.DONE)
            raise ToolFailed(f"The number could not be called: {error}") from error

    async def _until_answered(self, dialler: Dialler, leg_id: UUID, call_id: str) -> None:
        """Return when the target has answered, or raise `ToolFailed`.

        The carrier is asked: what it tells by itself comes to any process.
        """
        try:
            async with asyncio.timeout(ANSWER_SECS):
                while True:
                    call = await dialler.show(call_id)
                    if call is not None and call.status is CarrierStatus.IN_PROGRESS:
                        return
                    if call is not None and call.status.is_over:
                        await self._shared.legs.note(leg_id, due_secs=0)
                        said = _NOT_REACHED.get(call.status, "The call could not be connected.")
                        raise ToolFailed(f"{said} The caller is still with you.")
                    await asyncio.sleep(self._shared.poll_secs)
        except TimeoutError:
            raise ToolFailed("Nobody answered. The caller is still with you.") from None

    async def _bridge(self, dialler: Dialler, leg_id: UUID, document: str) -> None:
        """Have the caller go to the conference where the target is."""
        legs, own = self._shared.legs, caller_leg(self._thread.id)
        now = datetime.now(UTC).isoformat()
        # Before: the stream ends at once, and whoever sees that asks why.
        await legs.note(own, transferred_at=now)
        await legs.note(leg_id, transferred_at=now)
        self._is_transferred = True
        try:
            if not await dialler.redirect(self._call_id, document):
                raise ToolFailed("The caller has hung up.")
        except BaseException:
            self._is_transferred = False
            await legs.note(own, transferred_at=None)
            await legs.note(leg_id, transferred_at=None)
            raise
        # Whoever looks then finds a target that has hung up on its announcement.
        with suppress(Unavailable):
            await legs.note(leg_id, due_secs=FIRST_LOOK_SECS)
