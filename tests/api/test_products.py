"""The products a customer can read about."""

from __future__ import annotations

from flow.bot.vendors import vendors_by_part
from flow.domain.products.product import CALL_FIELDS
from flow.domain.products.product_file import read_products
from tests.api.conftest import Api, ServeApi


async def test_every_product_is_listed_as_the_file_has_it(api: Api) -> None:
    found = (await api.client.get("/api/products")).json()["products"]
    assert [one["name"] for one in found] == ["voice_bot", "playground", "insights"]
    voice, playground, insights = found
    assert (voice["billable"], playground["billable"]) == (True, False)
    assert voice["reservation_usd"] == "0.10"
    assert voice["concurrency_per_key"] is None
    assert not insights["calls"]
    assert not set(insights) & set(CALL_FIELDS)


async def test_the_products_flow_comes_with_can_be_read(serve_api: ServeApi) -> None:
    products = read_products(None, vendors_by_part())
    api = await serve_api(products=products)
    found = (await api.client.get("/api/products")).json()["products"]
    assert found == [product.to_json() for product in products]
    assert {"voice_bot", "insights"} <= {one["name"] for one in found}
