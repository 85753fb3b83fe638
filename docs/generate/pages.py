"""Every page of the reference, with what writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from generate.api import api_page
from generate.cli import cli_page
from generate.errors import errors_page
from generate.files import prices_page, products_page
from generate.markdown import Descriptions
from generate.metrics import metrics_page
from generate.settings import settings_page
from generate.units import units_page

PAGES: Mapping[str, Callable[[Descriptions], str]] = {
    "reference/settings.md": settings_page,
    "reference/api.md": api_page,
    "reference/cli.md": cli_page,
    "reference/metrics.md": metrics_page,
    "reference/errors.md": errors_page,
    "reference/prices.md": prices_page,
    "reference/products.md": products_page,
    "reference/units.md": units_page,
}
