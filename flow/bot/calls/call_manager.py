"""The calls of one process: how each begins over its transport, and what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID, uuid4

import structlog
from pipecat.transports.base_transport import BaseTransport

from flow.bot.calls.registry import Roster
from flow.bot.calls.room_calls import Entrance, Visit
from flow.bot.cost_control import Spending
from flow.bot.join_resolver import Resolver
from flow.bot.log_context import named
from flow.bot.pipeline import BotSettings, build_line
from flow.bot.session import CallSession, Ending, Recording
from flow.bot.session import Threads as SessionThreads
from flow.bot.transports.twilio import twilio_transport
from flow.bot.transports.websocket import CallSocket, webrtc_transport, websocket_transport
from flow.domain.calls.capacity import Capacity
from flow.domain.calls.close_codes import Close, close_of
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.media_stream import MediaStream
from flow.domain.calls.thread import ENDED_BY_API, GIVEN_UP, Status, Thread
from flow.domain.limits.budget import Standing, Tier
from flow.errors import (
    FieldProblem,
    FlowError,
    InvalidInput,
    NotFound,
    Unavailable,
)

if TYPE_CHECKING:
    from flow.bot.transports.webrtc_connection import Peer

log = structlog.get_logger(__name__)


class Threads(SessionThreads, Protocol):
    """What the calls need of `flow.db.database.Database`."""

    async def claim_thread(self, thread_id: UUID, claim: str) -> Thread:
        """Make a thread's call ours, or raise `Conflict`."""
        ...

    async def finish_thread(self, thread_id: UUID, status: Status) -> Thread:
        """Move the thread to a final state."""
        ...


class Finish(Protocol):
    """What follows a call: see `flow.workflows.finish`. Must not raise."""

    def __call__(
        self, thread_id: UUID, reason: str, error: dict[str, Any] | None
    ) -> Awaitable[object]:
        """Finish a call that ended for ``reason``."""
        ...


class Telephone(Protocol):
    """The telephone company: see `flow.vendors.twilio`."""

    async def hang_up(self, call_sid: str) -> None:
        """End one of its calls, or raise `Unavailable`."""
        ...


class Watch(Protocol):
    """Sees calls come and go. Must not block."""

    def started(self, product: str) -> None:
        """A caller connected."""
        return

    def ended(self, product: str, reason: str) -> None:
        """The call is over."""
        return


class _Unwatched(Watch):
    """Nobody looks."""


class Calls:
    """Accepts connections to joined threads and runs their bots.

    Args:
        roster: which calls run in this process.
        spending: the cost control of a thread's call, which starts with the key's standing.
        name: what this process is called; its threads are told by it if it dies.
        telephone: whose calls this process takes, if any.
        watch: sees calls come and go, for the metrics.
    """

    def __init__(
        self,
        *,
        roster: Roster,
        threads: Threads,
        recorder: Recording,
        settings: BotSettings,
        resolver: Resolver,
        spending: Callable[[Thread, JoinRequest, Standing], Spending],
        finish: Finish,
        name: str,
        telephone: Telephone | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.roster = roster
        self._watch = watch or _Unwatched()
        self._threads = threads
        self._recorder = recorder
        self._settings = settings
        self._resolver = resolver
        self._spending = spending
        self._finish = finish
        self._name = name
        self._telephone = telephone
        self._peers: dict[UUID, Peer] = {}

    @property
    def capacity(self) -> Capacity:
        """How many calls run here, and how many may."""
        return self.roster.capacity

    def check(self, join: JoinRequest) -> JoinRequest:
        """The join with everything filled in; raises as `Resolver.resolve` does.

        Raises:
            InvalidInput: also for a transport that is not set up here.
        """
        if join.transport.type == "twilio" and self._telephone is None:
            missing = "TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN are missing"
            problem = FieldProblem("transport.type", f"'twilio' is not set up here: {missing}")
            raise InvalidInput("The call cannot be connected.", [problem])
        return self._resolver.resolve(join)

    async def run_websocket(self, thread: Thread, websocket: Any) -> None:
        """Accept ``websocket`` and run the thread's call over it to its end.

        Raises:
            Refused: code ``at_capacity`` or ``shutting_down``.
            Conflict: the thread has been connected to before.
        """
        await self._claim(thread)
        try:
            await websocket.accept()
        except BaseException:
            self.roster.spawn(self._over(thread, Ending("caller_hung_up")))
            raise
        socket = self._socket(thread, websocket)
        ending = await self._run(thread, lambda: websocket_transport(socket))
        await _make_sure_closed(websocket, ending)

    async def run_stream(self, thread: Thread, websocket: Any, stream: MediaStream) -> None:
        """Run the thread's telephone call over the accepted ``websocket`` of its media stream.

        Raises:
            Refused, Conflict: as for `run_websocket`.
        """
        await self._claim(thread)
        ending = Ending("shutdown")
        try:
            socket = self._socket(thread, websocket)
            ending = await self._run(thread, lambda: twilio_transport(socket, stream))
            await _make_sure_closed(websocket, ending)
        finally:
            if ending.reason != "caller_hung_up":
                self.roster.spawn(self._hang_up(thread, stream))

    async def run_room(self, thread: Thread, enter: Callable[[], Awaitable[Entrance]]) -> None:
        """Make the thread ours, ``enter`` its room, and run the call there from now on.

        A room that cannot be entered cancels the thread.

        Raises:
            Refused, Conflict: as for `run_websocket`. Also what ``enter`` raises.
        """
        await self._claim(thread)
        try:
            entrance = await enter()
        except BaseException:
            await self._cancel(thread)
            raise
        self.roster.spawn(self._run_in_room(thread, entrance))

    async def hold_room(self, thread_id: UUID, visit: Callable[[str], Awaitable[Visit]]) -> None:
        """Run a call that may have been held elsewhere, as long as this process has it.

        ``visit`` takes it under the name of a claim.

        Raises:
            Refused, Conflict: as for `run_websocket`. Also what ``visit`` raises.
        """
        self.roster.reserve(thread_id)
        try:
            found = await visit(self._claim_name())
        except BaseException:
            self.roster.leave(thread_id)
            raise
        self._watch.started(found.thread.product)
        running = self.roster.spawn(
            self._run(found.thread, found.transport, found.wait_secs, found)
        )
        # The call is not to end with who waits for its end.
        await asyncio.shield(running)

    async def offer(self, thread: Thread, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a WebRTC offer ``{"sdp", "pc_id"?, "restart_pc"?}`` and start the call.

        A later offer with the ``pc_id`` of the running connection renegotiates it. A first
        offer that cannot be answered fails the thread, which is claimed by then.

        Raises:
            InvalidInput: the offer cannot be answered.
            Refused, Conflict: as for `run_websocket`.
        """
        if (connected := self._peers.get(thread.id)) is not None:
            restart = bool(request.get("restart_pc"))
            return await connected.renegotiate(
                request["sdp"], request.get("pc_id"), restart=restart
            )
        await self._claim(thread)
        try:
            with named(thread, self._settings.joined):
                peer = await (await asyncio.to_thread(_peer_type)).answering(
                    request["sdp"], thread.id
                )
        except BaseException as error:
            said = {"code": "bad_offer", "message": str(error) or type(error).__name__}
            self.roster.spawn(self._over(thread, Ending("error", said)))
            raise
        self._peers[thread.id] = peer
        self.roster.spawn(self._run_peer(thread, peer))
        return peer.answer

    async def ice(self, thread_id: UUID, request: Mapping[str, Any]) -> None:
        """Take trickled candidates ``{"pc_id", "candidates": [...]}`` of a running call.

        Raises:
            InvalidInput: they cannot be read.
            NotFound: no such connection is here.
        """
        if (peer := self._peers.get(thread_id)) is None:
            raise NotFound("This call has no WebRTC connection here.")
        await peer.add_candidates(request["pc_id"], request["candidates"])

    async def end(self, thread_id: UUID) -> bool:
        """Hang up a call that runs in this process, or is about to; False if it does not."""
        return self.roster.end(thread_id, ENDED_BY_API)

    async def _claim(self, thread: Thread) -> None:
        """Make the thread ours: in this process, and in the database for all others."""
        self.roster.reserve(thread.id)
        try:
            await self._threads.claim_thread(thread.id, self._claim_name())
        except BaseException:
            self.roster.leave(thread.id)
            raise
        self._watch.started(thread.product)

    def _socket(self, thread: Thread, websocket: Any) -> CallSocket:
        """The socket of a call that is closed as the call ends."""

        def close() -> Close:
            session = self.roster.session(thread.id)
            ending = session.ending if session is not None else None
            return close_of(ending.reason, ending.error) if ending else close_of(None)

        return CallSocket(websocket, close)

    def _claim_name(self) -> str:
        return f"{self._name}/{uuid4()}"

    async def _run(
        self,
        thread: Thread,
        transport: Callable[[], BaseTransport],
        wait_secs: float | None = None,
        visit: Visit | None = None,
    ) -> Ending:
        failed = Ending("error", {"code": "internal_error", "message": "the bot failed"})
        ending = failed
        try:
            owner = thread.owner
            join = thread.join if visit is None else visit.join
            said = () if visit is None else thread.transcript
            spending = self._spending(thread, join, await self._standing(thread.id))
            made = transport()
            line = build_line(join, owner, made, self._recorder, self._settings, spending, said)
            session = CallSession(
                owner,
                join,
                line,
                made,
                self._recorder,
                self._threads if visit is None else visit.threads,
                spending,
                wait_secs=wait_secs,
                first_turn=0 if visit is None else visit.first_turn,
            )
            self.roster.begin(thread.id, session, can_move=visit is not None)
            ending = Ending("shutdown")  # what it is if this is cancelled
            with named(thread, self._settings.joined):
                ending = await session.run()
        except Exception:
            log.exception("call_failed", workflow_thread_id=str(thread.id))
            ending = failed
        finally:
            self.roster.spawn(self._over(thread, ending, visit))
        return ending

    async def _standing(self, thread_id: UUID) -> Standing:
        try:
            return await self._threads.get_thread_standing(thread_id)
        except Unavailable as error:
            log.warning("standing_unknown", workflow_thread_id=str(thread_id), error=str(error))
            return Standing(Tier.UNKNOWN)

    async def _run_peer(self, thread: Thread, peer: Peer) -> None:
        try:
            await self._run(thread, lambda: webrtc_transport(peer.connection))
        finally:
            self._peers.pop(thread.id, None)
            # The transport closes only a connection that was made.
            await peer.close()

    async def _run_in_room(self, thread: Thread, entrance: Entrance) -> None:
        try:
            await self._run(thread, entrance.transport, entrance.wait_secs)
        finally:
            self.roster.spawn(entrance.leave())

    async def _cancel(self, thread: Thread) -> None:
        """Give a claimed thread up before anything has run; one that cannot be is swept."""
        try:
            await self._threads.finish_thread(thread.id, Status.CANCELLED)
        except FlowError as error:
            log.warning("cancel_failed", workflow_thread_id=str(thread.id), error=str(error))
        finally:
            self._watch.ended(thread.product, "cancelled")
            self.roster.leave(thread.id)

    async def _hang_up(self, thread: Thread, stream: MediaStream) -> None:
        """Have Twilio end the call: one whose stream is closed goes on with the TwiML after it."""
        assert self._telephone is not None, "a call of Twilio's without Twilio"
        try:
            await self._telephone.hang_up(stream.call_sid)
        except Unavailable as error:
            thread_id = str(thread.id)
            log.warning("hang_up_failed", workflow_thread_id=thread_id, error=str(error))

    async def _over(self, thread: Thread, ending: Ending, visit: Visit | None = None) -> None:
        log.info("call_ended", workflow_thread_id=str(thread.id), reason=ending.reason)
        self._watch.ended(thread.product, ending.reason)
        self.roster.leave(thread.id)
        if visit is not None:
            await visit.over(ending.reason, ending.error)
        elif ending.reason != GIVEN_UP:
            # Whoever gave it up finishes it.
            await self._finish(thread.id, ending.reason, ending.error)


async def _make_sure_closed(websocket: Any, ending: Ending) -> None:
    """Close the socket of a call whose pipeline could not be made, or did not close it."""
    with suppress(Exception):  # the caller has closed it meanwhile
        if websocket.application_state.name == "CONNECTED":
            await websocket.close(*close_of(ending.reason, ending.error))


def _peer_type() -> type[Peer]:
    """`Peer`, imported when it is first needed: that takes a second, so in a thread."""
    from flow.bot.transports.webrtc_connection import Peer

    return Peer
