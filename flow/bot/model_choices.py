"""The vendors and models that joins can choose from here."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase

from flow.bot.vendors import VENDORS
from flow.bot.vendors.spec import Choice, Vendor
from flow.domain.calls.bot_part import BotPart
from flow.domain.pricing.model_names import kind_by_name
from flow.domain.pricing.unpriced_models import HasPrice
from flow.domain.products.model_choices import VendorChoices
from flow.domain.products.product import Models, Product
from flow.domain.usage.units import Kind

_SPEECH_TO_SPEECH = re.compile("realtime|live|native-audio")


class VendorModelChoices:
    """Those of the vendors that have a key here, and whose packages are installed.

    Args:
        reachable: the vendors that have a key here.
        has_price: whether a price is known for a model, which tells what it is for.
        models_of: the models of a vendor that prices are known for.
        vendors: those there are.
    """

    def __init__(
        self,
        reachable: Collection[str],
        has_price: HasPrice,
        models_of: Callable[[str], Iterable[str]],
        vendors: Mapping[str, Vendor] = VENDORS,
    ) -> None:
        self._vendors = [vendors[name] for name in sorted(reachable)]
        self._has_price = has_price
        self._models_of = models_of

    def of(self, product: Product, part: BotPart) -> tuple[VendorChoices, ...]:
        """The vendors that a product allows for a part, by name."""
        models: Models = getattr(product, part)
        return tuple(
            VendorChoices(
                vendor.name,
                tuple(sorted(set(self._known(vendor, part, models)))),
                _voices(vendor, part),
            )
            for vendor in self._vendors
            if part in vendor.parts
            and vendor.missing is None
            and (models.allowed is None or any(_is_of(vendor, one) for one in models.allowed))
        )

    def _known(self, vendor: Vendor, part: BotPart, models: Models) -> Iterator[str]:
        for model in self._models_of(vendor.name):
            if (
                models.allows(vendor.name, model)
                and vendor.service(part, Choice(vendor.name, model, {})) is not None
                and self._is_for(part, vendor.name, model)
            ):
                yield model

    def _is_for(self, part: BotPart, vendor: str, model: str) -> bool:
        """Whether a model is one for this part, by its price and its name.

        What is priced by tokens might do any kind of work, so that its name decides.
        """
        if not self._has_price(part.kind, vendor, model):
            return False
        named = kind_by_name(model)
        if part.kind is Kind.LLM:
            speaks = _SPEECH_TO_SPEECH.search(model.lower()) is not None
            return named is Kind.LLM and speaks is (part is BotPart.REALTIME)
        if named is not Kind.LLM:
            return named is part.kind
        return not self._has_price(Kind.LLM, vendor, model)


def _is_of(vendor: Vendor, pattern: str) -> bool:
    """Whether a pattern of ``provider/model`` may allow models of a vendor."""
    return fnmatchcase(vendor.name, pattern.partition("/")[0].lower())


def _voices(vendor: Vendor, part: BotPart) -> tuple[str, ...] | None:
    """All voices of the vendor's services for a part."""
    named = [
        spec.voices() for spec in vendor.services if spec.part is part and spec.voices is not None
    ]
    return tuple(sorted({voice for voices in named for voice in voices})) if named else None
