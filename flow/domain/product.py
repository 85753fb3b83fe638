"""Products: what a call is sold as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Product:
    """One line of business; ``billable`` says whether its usage is charged to the team."""

    name: str
    billable: bool


PRODUCTS: Mapping[str, Product] = {
    product.name: product
    for product in (Product("voice_bot", billable=True), Product("playground", billable=False))
}
