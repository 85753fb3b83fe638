"""Save mode for requests to the gateway."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import structlog

from flow.domain.gateway import operations
from flow.domain.gateway.operations import Operation
from flow.domain.gateway.request import GatewayRequest
from flow.domain.limits.api_key import ApiKey
from flow.domain.limits.budget import Standing
from flow.domain.products.product import Product
from flow.domain.products.save_mode import SaveMode, decide, saving_request
from flow.domain.usage.events import CostControl
from flow.errors import FieldProblem, InvalidInput
from flow.gateway.bodies import MODEL
from flow.gateway.headers import SAVE_MODE_HEADER
from flow.gateway.plan import Saved
from flow.gateway.vendor_models import Target

log = structlog.get_logger(__name__)

_SAVES = (operations.CHAT, operations.RESPONSES, operations.MESSAGES)


class CostControls:
    """Decides whether save mode is on for a request.

    Args:
        enabled: whether it is switched on for a key; ``None``: unknown.
        forced: takes the place of ``enabled``, in debug mode.
    """

    def __init__(
        self, enabled: Callable[[ApiKey], bool | None], forced: bool | None = None
    ) -> None:
        self._enabled = enabled
        self._forced = forced

    def control(self, request: GatewayRequest, product: Product, standing: Standing) -> CostControl:
        """Whether it is on, and why.

        Raises:
            InvalidInput: the request's header says what is no mode.
        """
        return decide(
            join=_mode_of(request),
            key=standing.save_mode,
            product=product.save_mode,
            tier=standing.tier,
            enabled=self._enabled(request.key),
            forced=self._forced,
            asked_by="header",
        )


def saving(
    operation: Operation, target: Target, product: Product, cache_key: str | None
) -> Saved | None:
    """What save mode does to the fields of a request; ``None``: it has nothing to change.

    ``cache_key`` is what requests with the same prompt have in common: the caller's session.
    """
    if operation not in _SAVES:
        return None
    provider = target.upstream.name

    def saved(fields: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return saving_request(
                fields, provider=provider, saving=product.saving, cache_key=cache_key or ""
            )
        except Exception:
            # It is for the vendor to refuse a request that makes no sense.
            log.exception("shape_failed")
            cheaper = product.saving.cheaper(provider, target.model)
            return fields if cheaper is None else {**fields, MODEL: cheaper}

    return saved


def _mode_of(request: GatewayRequest) -> SaveMode | None:
    said = request.header(SAVE_MODE_HEADER)
    if said is None:
        return None
    try:
        return SaveMode(said.lower())
    except ValueError:
        problem = FieldProblem(SAVE_MODE_HEADER.decode(), "must be off, auto or on")
        raise InvalidInput("The request is not valid.", [problem]) from None
