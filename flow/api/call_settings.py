"""The checks of call settings that need the service, whether a join or an agent says them."""

from __future__ import annotations

from flow.api.dependencies import Services
from flow.domain.calls.join_request import CallSettings
from flow.domain.webhooks import public_url
from flow.errors import FieldProblem, InvalidInput


def require_public_webhook(services: Services, settings: CallSettings) -> None:
    """Raise `InvalidInput` for a webhook that does not lead out into the internet."""
    if settings.webhook_url is None or services.allow_private_webhooks:
        return
    if (said := public_url.problem_of(settings.webhook_url)) is not None:
        hint = public_url.private_hint(settings.webhook_url)
        raise InvalidInput("The request is not valid.", [FieldProblem("webhook_url", said, hint)])


async def require_usable_schema(services: Services, settings: CallSettings) -> None:
    """Raise `InvalidInput` for a schema against the rules of JSON Schema: the one time that they
    are asked."""
    schema = settings.insights.json_schema
    if schema is None:
        return
    if (said := await services.checker.schema_problem(schema)) is not None:
        raise InvalidInput("The request is not valid.", [FieldProblem("insights.schema", said)])
