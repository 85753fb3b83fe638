"""Which vendor's model a name in a request means, and which models there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from flow.domain.gateway.operations import OPERATIONS, Operation
from flow.domain.pricing.model_names import kind_by_name
from flow.domain.pricing.unpriced_models import HasPrice
from flow.domain.products.product import ModelName, Models, Product
from flow.domain.usage.events import Kind
from flow.errors import Refused
from flow.gateway.upstream import Upstream

_WILD = "*?["


@dataclass(frozen=True, slots=True)
class Target:
    """A model of a vendor, and where that serves the operation."""

    upstream: Upstream
    model: str

    @property
    def name(self) -> ModelName:
        """The vendor's name and the model's."""
        return ModelName(self.upstream.name, self.model)


class VendorModels:
    """The models of the vendors that this service has keys for.

    Args:
        upstreams: in the order in which a model that several of them have is looked for.
        has_price: whether a price is known for a model, which tells that its vendor has it.
        has_tier_price: the same at a service tier.
        priced: the models of a vendor that a price is known for.
    """

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        has_price: HasPrice,
        has_tier_price: Callable[[Kind, str, str, str], bool],
        priced: Callable[[str], Iterable[str]],
    ) -> None:
        self._upstreams = upstreams
        self._has_price = has_price
        self._has_tier_price = has_tier_price
        self._priced = priced

    def find(self, name: str, operation: Operation, product: Product) -> Target:
        """What ``name`` means: ``vendor/model``, or a model that some vendor of the product has.

        Raises:
            Refused: ``model_not_found``, or ``model_not_allowed`` for this product.
        """
        vendor, _, model = name.partition("/")
        upstream = self._upstreams.get(vendor.lower())
        if upstream is not None and model:
            found = Target(upstream, model)
        else:
            found = self._of_any_vendor(name, operation, product)
        self.require(found, operation, product)
        return found

    def require(self, target: Target, operation: Operation, product: Product) -> None:
        """Refuse a model that cannot be used, as `find` does."""
        if not models_of(product, operation).allows(target.upstream.name, target.model):
            raise Refused(
                "model_not_allowed", f"The product {product.name!r} does not allow {target.name}."
            )
        if operation not in target.upstream.apis.operations:
            able = ", ".join(one.name for one in self._serving(operation)) or "none"
            raise Refused(
                "model_not_found",
                f"{target.upstream.name} does not serve /v1{operation.path}: of the vendors here,"
                f" {able} does.",
            )

    def fallbacks(self, first: Target, operation: Operation, product: Product) -> Iterator[Target]:
        """The models that may answer in place of the first, in order."""
        if not operation.falls_back:
            return
        for name in product.fallbacks:
            upstream = self._upstreams.get(name.provider)
            if upstream is None or operation not in upstream.apis.operations:
                continue
            target = Target(upstream, name.model)
            if target != first:
                yield target

    def listed(self, product: Product) -> list[ModelName]:
        """The models of a product that are known by name, sorted."""
        found = set()
        for operation in OPERATIONS.values():
            models = models_of(product, operation)
            for upstream in self._serving(operation):
                found |= {
                    ModelName(upstream.name, model)
                    for model in self._known(upstream.name, models)
                    if models.allows(upstream.name, model)
                    and kind_by_name(model) is operation.kind
                    and self._has_price(operation.kind, upstream.name, model)
                }
        return sorted(found, key=str)

    def is_priced(self, target: Target, operation: Operation, tier: str | None) -> bool:
        """Whether a price is known for what the model does there, at the service tier asked for."""
        kind, vendor, model = operation.kind, target.upstream.name, target.model
        return self._has_price(kind, vendor, model) and (
            tier is None or self._has_tier_price(kind, vendor, model, tier)
        )

    def _known(self, vendor: str, models: Models) -> Iterator[str]:
        yield from self._priced(vendor)
        for pattern in models.allowed or ():
            if not any(c in pattern for c in _WILD) and pattern.lower().startswith(f"{vendor}/"):
                yield pattern.partition("/")[2]

    def _serving(self, operation: Operation) -> Iterator[Upstream]:
        return (one for one in self._upstreams.values() if operation in one.apis.operations)

    def _of_any_vendor(self, model: str, operation: Operation, product: Product) -> Target:
        """The first vendor that is known to have it; else the only one that could."""
        serving = list(self._serving(operation))
        having = [one for one in serving if self._has_price(operation.kind, one.name, model)]
        allowed = models_of(product, operation)
        able = [one for one in having or serving if allowed.allows(one.name, model)]
        if able and (having or len(able) == 1):
            return Target(able[0], model)
        if serving and not able:
            raise Refused(
                "model_not_allowed", f"The product {product.name!r} does not allow {model[:200]}."
            )
        names = ", ".join(one.name for one in able) or "none"
        raise Refused(
            "model_not_found",
            f"No vendor here is known to have {model[:200]!r} for /v1{operation.path}: name its"
            f" vendor, as in vendor/model. The vendors are {names}.",
        )


def models_of(product: Product, operation: Operation) -> Models:
    """The models of a product that an operation may use."""
    found: Models = getattr(product, operation.part)
    return found
