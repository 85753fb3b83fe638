"""The checks of an agent from a file, by the settings of the service: those of the API."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from flow.app.bots import bot_defaults
from flow.bot.join_defaults import Resolver
from flow.bot.vendors import VENDORS, vendors_by_part
from flow.domain.agents.agent import AgentDefinition
from flow.domain.agents.filling import check_templates
from flow.domain.calls.request_parts import field_of
from flow.domain.calls.tools import HttpTool, Remote
from flow.domain.insights.insight_schema import rule_problem
from flow.domain.products.product_file import read_products
from flow.domain.webhooks import public_url
from flow.errors import FieldProblem, InvalidInput
from flow.settings import Settings


def checked(settings: Settings, said: dict[str, Any]) -> AgentDefinition:
    """The definition in a file, judged by the settings of the service.

    Whether a vendor has a key, and which bots of the operator's own there are, the service alone
    knows.

    Raises:
        InvalidInput, Refused, ConfigurationError: it cannot be used; says what is wrong with it.
    """
    try:
        definition = AgentDefinition.model_validate(said)
    except ValidationError as error:
        raise InvalidInput("The agent is not valid.", [*_problems(error, said)]) from None
    try:
        _check(settings, definition)
    except InvalidInput as error:
        raise definition.as_sent(error) from error
    return definition


def _check(settings: Settings, definition: AgentDefinition) -> None:
    check_templates(definition)
    problems = [*_beyond_form(settings, definition)]
    if problems:
        raise InvalidInput("The agent is not valid.", problems)
    resolver = Resolver(
        read_products(settings.products_file, vendors_by_part()),
        bot_defaults(settings),
        reachable=VENDORS,
        bots=[definition.bot.name] if definition.bot.name else (),
        recording_days=None if settings.recordings_url is None else settings.recordings_days,
    )
    resolver.resolve(definition.as_join())


def _beyond_form(settings: Settings, definition: AgentDefinition) -> Iterable[FieldProblem]:
    private = settings.may_reach_private
    url, schema = definition.webhook_url, definition.insights.json_schema
    if url is not None and (said := public_url.problem_of(url, allow_private=private)):
        yield FieldProblem("webhook_url", said, public_url.private_hint(url))
    if schema is not None and (said := rule_problem(schema)):
        yield FieldProblem("insights.schema", said)
    for place, tool in enumerate(definition.bot.tools):
        field = f"bot.tools.{place}"
        if isinstance(tool, Remote) and (
            said := public_url.problem_of(tool.url, allow_private=private)
        ):
            yield FieldProblem(f"{field}.url", said, public_url.private_hint(tool.url))
        if isinstance(tool, HttpTool) and (said := rule_problem(tool.parameters)):
            yield FieldProblem(f"{field}.parameters", said)


def _problems(error: ValidationError, definition: Any) -> Iterable[FieldProblem]:
    for found in error.errors(include_url=False, include_input=False):
        unknown = found["type"] == "extra_forbidden"
        said = "is not a field of an agent" if unknown else found["msg"]
        yield FieldProblem(field_of(found["loc"], definition), said.removeprefix("Value error, "))
