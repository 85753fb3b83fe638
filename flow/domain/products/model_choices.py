"""What a join may choose for each part of a bot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from flow.domain.calls.bot_part import BotPart
from flow.domain.products.product import Product


@dataclass(frozen=True, slots=True)
class VendorChoices:
    """A vendor that can be chosen for a part of a bot.

    ``models`` are those that are known by name, sorted; the vendor may have others. ``voices``
    are all that it has, sorted; ``None`` where they are the vendor's business.
    """

    name: str
    models: tuple[str, ...]
    voices: tuple[str, ...] | None = None


class ModelChoices(Protocol):
    """The vendors that are set up, and their models."""

    def of(self, product: Product, part: BotPart) -> tuple[VendorChoices, ...]:
        """The vendors that a product allows for a part, by name."""
        ...
