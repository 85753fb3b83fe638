"""What a process has of a call, from the caller's connection or the room queue to the end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from pipecat.transports.base_transport import BaseTransport

from flow.bot.tools.tool import CallControl
from flow.domain.calls.ending import Ending
from flow.domain.calls.join_request import JoinRequest
from flow.domain.calls.thread import Pulse, Status, Thread


class SignOfLife(Protocol):
    """Says that a call lives, and perhaps moves its thread to a status.

    Raises `CallTakenOver` once the call is another process's.
    """

    def __call__(self, status: Status | None = None) -> Awaitable[Pulse]:
        """Where the thread is now, and whether the call is to end."""
        ...


OpenTransport = Callable[[Callable[[], Ending | None]], Awaitable[BaseTransport]]
"""Makes a call's transport; what it is given says why the call ends, for those that tell it."""


@dataclass(frozen=True, slots=True)
class CallLease:
    """A call as long as one process has it.

    Args:
        thread: with the transcript so far.
        join: what is left to do: the resolved join, or what remains of it.
        open: makes the transport, once.
        not_opened: why the call ended if ``open`` raises.
        touch: where signs of life and the status go.
        end: what is to be done when the call is over here; does not raise.
        wait_secs: how long the bot waits for its caller; ``None``: the caller is there.
        first_turn: the number of the first turn here.
        can_move: whether another process can go on with the call.
        control: transfers the call and presses keys, where its transport can.
    """

    thread: Thread
    join: JoinRequest
    open: OpenTransport
    not_opened: Callable[[BaseException], Ending]
    touch: SignOfLife
    end: Callable[[Ending], Awaitable[None]]
    wait_secs: float | None = None
    first_turn: int = 0
    can_move: bool = False
    control: CallControl | None = None


TakeLease = Callable[[str], Awaitable[CallLease]]
"""Takes a call under the name of a claim, which is this process's alone."""


@dataclass(frozen=True, slots=True)
class CallerConnection:
    """How one caller is connected to the bot: what a lease needs of a transport.

    Args:
        open, not_opened, wait_secs, control: as in `CallLease`.
        close: what is left to do with the connection when the call is over; does not raise.
    """

    open: OpenTransport
    not_opened: Callable[[BaseException], Ending]
    close: Callable[[Ending], Awaitable[None]]
    wait_secs: float | None = None
    control: CallControl | None = None
