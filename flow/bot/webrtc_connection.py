"""A caller's WebRTC connection: its offers and answers, its candidates and its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

import structlog
from aiortc.rtcicetransport import RTCIceCandidate
from aiortc.sdp import SessionDescription, candidate_from_sdp
from pipecat.transports.base_transport import BaseTransport
from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection

from flow.bot.transports.webrtc import webrtc_transport
from flow.errors import Conflict, FieldProblem, InvalidInput, NotFound

log = structlog.get_logger(__name__)

# A browser hides its addresses behind names, and one that nobody answers to takes a second.
NEGOTIATION_SECS = 10.0
CONNECT_SECS = 30
CLOSE_SECS = 5.0
MOST_STREAMS = 3


class WebRTCConnection:
    """One caller's connection. ``connection`` is what a transport is made of.

    Every error an offer or a candidate can provoke in the libraries below is `InvalidInput`:
    they are given a stranger's text, and raise whatever it makes them stumble over.
    """

    def __init__(self, thread_id: UUID) -> None:
        self._log = log.bind(workflow_thread_id=str(thread_id))
        self.connection = SmallWebRTCConnection(
            ice_servers=[], connection_timeout_secs=CONNECT_SECS
        )
        self._negotiating = asyncio.Lock()

    @classmethod
    async def answering(cls, sdp: str, thread_id: UUID) -> WebRTCConnection:
        """A connection that has an answer to the offer ``sdp``, and connects from now on.

        Raises:
            InvalidInput: the offer cannot be answered.
        """
        _check_offer(sdp)
        made = cls(thread_id)
        try:
            async with made._negotiation("sdp"):
                await made.connection.initialize(sdp=sdp, type="offer")
        except BaseException:
            await made.close()
            raise
        return made

    def transport(self) -> BaseTransport:
        """The transport over this connection."""
        return webrtc_transport(self.connection)

    @property
    def answer(self) -> dict[str, Any]:
        """The answer to the latest offer: ``sdp``, ``type`` and ``pc_id``."""
        return dict(self.connection.get_answer() or {})  # type: ignore[no-untyped-call]

    async def renegotiate(self, sdp: str, pc_id: str | None, *, restart: bool) -> dict[str, Any]:
        """Answer one more offer. ``restart`` replaces the connection by a new one.

        An offer that cannot be answered leaves the connection as it was; a restart that fails
        half-way leaves none, and hangs up.

        Raises:
            InvalidInput: the offer cannot be answered.
            Conflict: ``pc_id`` is not this connection's.
        """
        async with self._negotiating:
            if pc_id != self.connection.pc_id:
                raise Conflict("The call has another connection.", "already_connected")
            _check_offer(sdp)
            try:
                async with self._negotiation("sdp"):
                    await self.connection.renegotiate(sdp=sdp, type="offer", restart_pc=restart)
            except BaseException:
                if restart:
                    await self.close()
                raise
            return self.answer

    async def add_candidates(self, pc_id: str, candidates: Sequence[dict[str, Any]]) -> None:
        """Try these addresses too: each has ``candidate``, ``sdp_mid`` and ``sdp_mline_index``.

        A blank ``candidate`` says that there are no more.

        Raises:
            InvalidInput: one of them is no candidate.
            NotFound: ``pc_id`` is not this connection's.
        """
        if pc_id != self.connection.pc_id:
            raise NotFound("There is no such WebRTC connection.")
        parsed = [_candidate(position, one) for position, one in enumerate(candidates)]
        async with self._negotiation("candidates"):
            for candidate in parsed:
                await self.connection.add_ice_candidate(candidate)  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        """Close the connection, whatever its state; its sockets are free afterwards."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECS):
                await self.connection.disconnect()  # type: ignore[no-untyped-call]

    @asynccontextmanager
    async def _negotiation(self, field: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(NEGOTIATION_SECS):
                yield
        except TimeoutError:
            raise _invalid(field, "takes too long to resolve") from None
        except Exception as error:
            self._log.warning("negotiation_failed", error_type=type(error).__name__)
            raise _invalid(field, "cannot be used") from error


def _check_offer(sdp: str) -> None:
    """Refuse what the pipeline cannot serve, before anything is opened for it."""
    try:
        media = SessionDescription.parse(sdp).media
    except Exception:
        raise _invalid("sdp", "is not a session description") from None
    if any(not section.dtls or not section.dtls.fingerprints for section in media):
        raise _invalid("sdp", "must have a fingerprint for every section")
    streams = [section for section in media if section.kind != "application"]
    if not streams or streams[0].kind != "audio" or streams[0].direction != "sendrecv":
        raise _invalid("sdp", "must have a sendrecv audio section before any other stream")
    # Of any further streams the frames would be decoded and kept, with nobody to take them.
    others = [section.kind for section in streams[1:]]
    if len(streams) > MOST_STREAMS or any(kind != "video" for kind in others):
        raise _invalid("sdp", "may have two video sections beside the audio, and no more")


def _candidate(position: int, given: dict[str, Any]) -> RTCIceCandidate | None:
    text = given["candidate"].strip()
    if not text:
        return None
    try:
        candidate = candidate_from_sdp(text.removeprefix("candidate:"))
    except Exception:
        raise _invalid(f"candidates.{position}.candidate", "is not an ICE candidate") from None
    candidate.sdpMid, candidate.sdpMLineIndex = given["sdp_mid"], given["sdp_mline_index"]
    return candidate


def _invalid(field: str, message: str) -> InvalidInput:
    return InvalidInput("The connection cannot be negotiated.", [FieldProblem(field, message)])
