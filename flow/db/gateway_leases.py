"""The leases of the gateway as typed calls."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

from flow.db import rows
from flow.db.transport import TypedCalls
from flow.domain.limits.lease import LeaseAnswer, LeaseQuestion, Resource
from flow.domain.limits.quota import Terms
from flow.domain.products.save_mode import SaveMode


class GatewayLeases(TypedCalls):
    """What a process holds of limits; each call is one round trip and one transaction."""

    async def renew(
        self,
        process_id: UUID,
        api_key_id: UUID,
        product: str,
        *,
        billable: bool,
        question: LeaseQuestion,
        terms: Terms,
    ) -> LeaseAnswer:
        """Renew a process's lease for requests with a key for a product.

        Raises:
            NotFound: the key is gone.
            Refused: it was revoked.
        """
        row = await self._call(
            "lease_gateway",
            p_process_id=str(process_id),
            p_api_key_id=str(api_key_id),
            p_product=product,
            p_billable=billable,
            p_slices=question.slices(),
            p_done=question.done(),
            p_terms=terms.to_json(),
        )
        return _answer(row)

    async def forget(self) -> None:
        """Remove the leases of processes that are gone, and what was counted longer ago."""
        await self._call("forget_gateway_leases")


def _answer(row: Mapping[str, Any]) -> LeaseAnswer:
    mode, budget, refused = row["save_mode"], row["budget"], row["refused"]
    granted = {one: row["granted"][one.value] for one in Resource}
    return LeaseAnswer(
        granted={one: None if said is None else Decimal(said) for one, said in granted.items()},
        refused=refused and rows.refusal(refused),
        is_used_up=row["used_up"],
        may_be_freed=bool(row["may_be_freed"]),
        rates=tuple(map(rows.limit_state, row["rates"])),
        budget=budget and rows.budget(budget),
        save_mode=mode and SaveMode(mode),
    )
