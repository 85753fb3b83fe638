"""Telephone numbers, as operators set them by command and over HTTP."""

from __future__ import annotations

from typing import Any

from flow.db.database import Database
from flow.db.telephony import PhoneNumber
from flow.domain.calls.phone_number import number_problem
from flow.errors import FieldProblem, InvalidInput, NotFound


async def put_number(
    database: Database, number: str, key: str, *, agent: str | None, product: str | None
) -> PhoneNumber:
    """Add a number, or change what it rings and on whose budget.

    Args:
        key: a key by its name or an id.
        agent: an agent of the key's team, by its name or id.

    Raises:
        InvalidInput: it is no number, or is to ring two things, or what it is to ring is not there.
        NotFound, Conflict: there is no such key, or there are several.
    """
    problems = []
    if (said := number_problem(number)) is not None:
        problems.append(FieldProblem("number", said))
    if agent is not None and product is not None:
        problems.append(FieldProblem("product", "goes without an agent, which has its own"))
    if problems:
        raise InvalidInput("The number cannot be added.", problems)
    owner = (await database.operating.get_api_key(key)).key
    if agent is not None:
        try:
            found = await database.agents.get(owner.team_id, agent)
        except NotFound as error:
            problem = FieldProblem("agent", f"the team {owner.team_id} has no agent {agent}")
            raise InvalidInput("The number cannot be added.", [problem]) from error
        # By its id, as a name may be another agent's later.
        agent = str(found.id)
    return await database.telephony.put_number(number, owner.id, agent=agent, product=product)


def number_form(one: PhoneNumber) -> dict[str, Any]:
    """A number as JSON shows it."""
    return {
        "number": one.number,
        "agent": one.agent,
        "agent_name": one.agent_name,
        "product": one.product,
        "api_key_id": str(one.key.id),
        "key_name": one.key.name,
        "team_id": one.key.team_id,
        "created_at": one.created_at.isoformat(),
    }
