"""Commands for the calls of a process: taken from the database, and carried out at most once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol
from uuid import UUID, uuid4

import structlog

from flow.bot.calls.registry import CallRegistry
from flow.domain.calls.command import Command, kind_of
from flow.errors import FlowError, Unavailable

log = structlog.get_logger(__name__)

POLL_SECS = 0.5
"""How late a command may be that came to another process: one small query for all calls here."""
PAUSE_SECS = 5.0
GONE = "The call is about to end."


class Records(Protocol):
    """What the database knows of commands: see `flow.db.during_calls`."""

    async def take_commands(self, claims: Mapping[UUID, str], take: UUID) -> Sequence[Command]:
        """What waits for the calls under these claims, each once."""
        ...

    async def refuse_command(self, command_id: UUID, refusal: str) -> None:
        """Say why a command cannot be carried out."""
        ...


class CallCommands:
    """Brings commands to the calls that run in this process.

    One is taken before it is carried out, so the end of a process in between loses it, and
    nothing happens twice.
    """

    def __init__(
        self, registry: CallRegistry, records: Records, *, poll_secs: float = POLL_SECS
    ) -> None:
        self._registry = registry
        self._records = records
        self._poll_secs = poll_secs
        self._due = asyncio.Event()

    def nudge(self, thread_id: UUID) -> None:
        """A command was left for a call, which may run here: look at once."""
        if self._registry.session(thread_id) is not None:
            self._due.set()

    async def forever(self) -> None:
        """Look for commands as long as calls run here."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._due.wait(), self._poll_secs)
            self._due.clear()
            try:
                await self.once()
            except Unavailable as error:
                log.warning("commands_wait", error=str(error))
                await asyncio.sleep(PAUSE_SECS)
            except Exception:
                log.exception("commands_wait")
                await asyncio.sleep(PAUSE_SECS)

    async def once(self) -> None:
        """Carry out what waits now."""
        if not (claims := self._registry.claims):
            return
        for command in await self._records.take_commands(claims, uuid4()):
            await self._carry_out(command)

    async def _carry_out(self, command: Command) -> None:
        bound = log.bind(
            workflow_thread_id=str(command.workflow_thread_id), command=kind_of(command.order)
        )
        session = self._registry.session(command.workflow_thread_id)
        try:
            refusal = GONE if session is None else await session.carry_out(command.order)
            if refusal is not None:
                await self._records.refuse_command(command.id, refusal)
            bound.info("call_command", refused=refusal is not None)
        except FlowError as error:
            bound.warning("call_command_failed", error=str(error))
        except Exception:
            bound.exception("call_command_failed")
