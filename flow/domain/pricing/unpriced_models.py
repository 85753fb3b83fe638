"""Models without a price: which of them a join asks for, and which the configuration names.

What is spent on a model without a price is in no sum, so no budget can hold it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from flow.domain.calls.bot_part import BotPart
from flow.domain.calls.join_request import JoinRequest
from flow.domain.products.product import ModelName, Models, Product, Products
from flow.domain.usage.units import Kind

HasPrice = Callable[[Kind, str, str], bool]
"""Whether a price is known now for work of this kind by this provider and model."""

REMEMBERED = 1_000


def remembered(has_price: HasPrice, now: Callable[[], float] = time.time) -> HasPrice:
    """The same, which looks each model up once a minute: every join asks.

    Prices begin, and hold by hours, at whole minutes. ``now`` is in seconds since the epoch.
    """

    @lru_cache(maxsize=REMEMBERED)
    def within(_: int, kind: Kind, provider: str, model: str) -> bool:
        return has_price(kind, provider, model)

    return lambda kind, provider, model: within(int(now() // 60), kind, provider, model)


def price_hint(product: str) -> str:
    """How the operator lets a model without a price be used where there is a budget."""
    return (
        "Add the model to the file in FLOW_PRICES_FILE, or set"
        f' unpriced = "allow" for the product {product} in FLOW_PRODUCTS_FILE.'
    )


def of_join(join: JoinRequest, has_price: HasPrice) -> dict[str, ModelName]:
    """The models of a resolved join that have no price, by the fields that name them."""
    found = {}
    for part in join.bot.parts:
        asked = getattr(join.bot, part)
        is_known = asked.provider and asked.model
        if is_known and not has_price(part.kind, asked.provider, asked.model):
            found[f"bot.{part}.model"] = ModelName(asked.provider, asked.model)
    return found


def of_configuration(
    products: Products,
    defaults: Mapping[str, Mapping[str, Any]],
    insights: ModelName,
    has_price: HasPrice,
) -> dict[str, ModelName]:
    """The models without a price that are used where no join names one, by where they are set.

    These are the defaults of each product, its cheaper models of save mode, and the models of the
    step after a call. Products that allow unpriced models are left out.

    Args:
        defaults: the ``provider`` and ``model`` of each part where a product has no default.
        insights: the model of the step after a call, where its product has no default.
    """
    return {
        where: name
        for product in products
        if product.unpriced == "refuse"
        for where, kind, name in _configured(product, products, defaults, insights)
        if not has_price(kind, name.provider, name.model)
    }


def _configured(
    product: Product,
    products: Products,
    defaults: Mapping[str, Mapping[str, Any]],
    insights: ModelName,
) -> Iterator[tuple[str, Kind, ModelName]]:
    services = []
    if product is products.insights:
        services.append((BotPart.LLM, insights, "FLOW_INSIGHTS_MODEL"))
    if product.calls:
        for part in BotPart:
            default = ModelName(defaults[part]["provider"], defaults[part]["model"])
            services.append((part, default, f"FLOW_{part.upper()}_MODEL"))
    for part, default, variable in services:
        models: Models = getattr(product, part)
        if models.default is None:
            yield variable, part.kind, default
        else:
            yield f"{product.name}.{part}.default", part.kind, models.default
    for costly, cheap in product.saving.models.items():
        yield f"{product.name}.saving.models.{costly}", Kind.LLM, ModelName.parse(cheap)
