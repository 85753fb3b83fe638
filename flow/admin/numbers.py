"""Telephone numbers, as operators set them by command and over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from flow.db.database import Database
from flow.db.telephony import PhoneNumber
from flow.domain.agents.agent import Agent, AgentDefinition
from flow.domain.agents.filling import check_without_variables
from flow.domain.agents.system_variables import CallFacts
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
        InvalidInput: it is no number, or is to ring two things, or what it is to ring is not there
            or needs variables.
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
        _require_own_variables(found, number)
        # By its id, as a name may be another agent's later.
        agent = str(found.id)
    return await database.telephony.put_number(number, owner.id, agent=agent, product=product)


def _require_own_variables(agent: Agent, number: str) -> None:
    """Raise `InvalidInput` for an agent that would refuse all its callers: nobody joins for them,
    so there is nobody to give a variable."""
    facts = CallFacts(
        *(UUID(int=0), datetime.now(UTC), agent.name), caller_number=number, called_number=number
    )
    try:
        check_without_variables(AgentDefinition.from_json(agent.definition), facts)
    except InvalidInput as error:
        raise InvalidInput(
            "The number cannot be added: nobody gives its calls variables.",
            [FieldProblem("agent", f"its {one.field} {one.message}") for one in error.problems],
        ) from error


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
