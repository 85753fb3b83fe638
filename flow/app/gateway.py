"""The gateway of a service, over the vendors that it has keys for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from flow.app.bots import Contents
from flow.app.clients import Clients
from flow.app.shared_resources import Resources
from flow.domain.usage.events import Kind, UsageEvent
from flow.errors import ConfigurationError, Refused
from flow.gateway.admission import GatewayAdmission
from flow.gateway.cost_controls import CostControls
from flow.gateway.gateway import Gateway
from flow.gateway.job import Accounts, KeepContent
from flow.gateway.upstream import Upstream, UpstreamClient
from flow.gateway.vendor_models import VendorModels
from flow.ledger.recorder import Recorder
from flow.metering.evidence import Opening


@asynccontextmanager
async def open_gateway(
    resources: Resources,
    clients: Clients,
    recorder: Recorder,
    admission: GatewayAdmission,
    contents: Contents,
) -> AsyncIterator[Gateway]:
    """Run a gateway; leaving the block closes its connections.

    Args:
        contents: receives prompts and answers, where the operator wants them captured.

    Raises:
        ConfigurationError: the gateway does not serve the product that the settings name.
    """
    settings, flag = resources.settings, resources.flag
    _check_product(resources)
    models = VendorModels(
        _upstreams(clients), resources.has_price, resources.has_tier_price, resources.models_of
    )
    gateway = Gateway(
        resources.products,
        models,
        admission,
        CostControls(lambda key: flag.enabled(key.id, key.team_id), resources.forced_cost_controls),
        Accounts(recorder, _keeper(contents) if settings.capture_content else None),
        UpstreamClient(settings.gateway_silence_secs),
        default_product=settings.gateway_product,
        drain=settings.interrupted_streams == "drain",
    )
    try:
        yield gateway
    finally:
        await gateway.aclose()


def _check_product(resources: Resources) -> None:
    """Refuse a product that was named and is none; without the usual one requests must name one."""
    settings = resources.settings
    if "gateway_product" not in settings.model_fields_set:
        return
    try:
        resources.products.for_gateway(settings.gateway_product)
    except Refused as error:
        raise ConfigurationError(f"FLOW_GATEWAY_PRODUCT: {error}") from None


def _upstreams(clients: Clients) -> dict[str, Upstream]:
    from flow.bot.vendors import VENDORS

    return {
        name: Upstream(
            name,
            VENDORS[name].apis.below(str(endpoint.base_url)),
            endpoint.api_key,
            VENDORS[name].apis,
            is_gateway=endpoint.is_gateway,
            captures=endpoint.gateway_captures,
        )
        for name, endpoint in clients.models.items()
    }


def _keeper(contents: Contents) -> KeepContent:
    def keep(event: UsageEvent, opening: Opening, text: str) -> None:
        if event.kind is Kind.LLM:
            contents[event.id] = (list(opening.content or ()), text)

    return keep
