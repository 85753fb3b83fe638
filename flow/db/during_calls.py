"""The calls of `flow.db.database` about what happens while a call runs.

Any call may raise `DatabaseUnavailable`; each documents its other errors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any
from uuid import UUID

from flow.db import rows
from flow.db.transport import TypedCalls
from flow.domain.calls.command import MOST_COMMANDS, WITHIN_SECS, Command, Order, kind_of
from flow.domain.calls.progress import Progress, Seen
from flow.domain.calls.room_call import TURNS_OF_A_LEASE
from flow.domain.calls.thread import Status
from flow.domain.calls.tool_call import ToolCall


class DuringCalls(TypedCalls):
    """The calls; each is one round trip and one transaction."""

    async def send_command(
        self,
        command_id: UUID,
        thread_id: UUID,
        api_key_id: UUID,
        order: Order,
        idempotency_key: str | None,
    ) -> Command:
        """Leave a command for the process that has the call; under the same id or idempotency key
        it is left once.

        Raises:
            NotFound: there is no such thread, or it is another key's.
            Conflict: code ``not_in_call``, or ``idempotency_conflict`` for another order.
            Refused: code ``rate_limited``.
        """
        body = order.model_dump()
        content = json.dumps([kind_of(order), body], sort_keys=True)
        row = await self._call(
            "command_call",
            p_id=str(command_id),
            p_thread_id=str(thread_id),
            p_api_key_id=str(api_key_id),
            p_kind=kind_of(order),
            p_body=body,
            p_idempotency_key=idempotency_key,
            p_fingerprint=sha256(content.encode()).hexdigest(),
            p_most=MOST_COMMANDS,
            p_within_secs=WITHIN_SECS,
        )
        return Command.from_json(row)

    async def take_commands(self, claims: Mapping[UUID, str], take: UUID) -> list[Command]:
        """What waits for the calls that are held under these claims, in order, each once for all
        who ask; again for the same ``take``."""
        held = {str(thread_id): claim for thread_id, claim in claims.items()}
        found = await self._call("take_call_commands", p_claims=held, p_take=str(take))
        return [Command.from_json(row) for row in found]

    async def refuse_command(self, command_id: UUID, refusal: str) -> None:
        """Say why the bot of the call cannot carry out a command."""
        await self._call("refuse_call_command", p_id=str(command_id), p_refusal=refusal)

    async def get_command(self, command_id: UUID) -> Command | None:
        """A command as it is now; ``None`` when it went with its key."""
        row = await self._call("get_call_command", p_id=str(command_id))
        return row and Command.from_json(row)

    async def list_progress(self, watched: Sequence[tuple[UUID, Seen]]) -> list[Progress | None]:
        """How threads stand, and what of each was not seen yet; ``None`` for one that is gone."""
        found = await self._call(
            "list_thread_progress",
            p_watched=[
                {
                    "thread_id": str(thread_id),
                    "turns": {str(k): v for k, v in seen.turns.items()},
                    "tools": seen.tools,
                }
                for thread_id, seen in watched
            ],
            p_turns_of_a_lease=TURNS_OF_A_LEASE,
        )
        return [row and _progress(row) for row in found or ()]


def _progress(row: Mapping[str, Any]) -> Progress:
    account = row["account"]
    return Progress(
        status=Status(row["status"]),
        created_at=rows.utc(row["created_at"]),
        connected_at=rows.maybe_utc(row["connected_at"]),
        ended_at=rows.maybe_utc(row["ended_at"]),
        completed_at=rows.maybe_utc(row["completed_at"]),
        end_reason=row["end_reason"],
        error=rows.floats(row["error"]),
        usage_stats=account["usage_stats"],
        tier=rows.standing(account["standing"]).tier,
        turns=tuple(rows.turn_of(turn) for turn in row["turns"]),
        tool_calls=tuple(
            (call["place"], ToolCall.from_json(rows.floats(call))) for call in row["tool_calls"]
        ),
    )
