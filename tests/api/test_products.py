"""The products a customer can read about."""

from __future__ import annotations

from flow.bot.join_defaults import Resolver
from flow.bot.vendors import vendors_by_part
from flow.domain.calls.bot_part import BotPart
from flow.domain.calls.join_request import JoinRequest
from flow.domain.products.product import CALL_FIELDS
from flow.domain.products.product_file import read_products
from tests.api.conftest import PRODUCTS, Api, Calls, ServeApi


async def test_every_product_is_listed_as_the_file_has_it(api: Api) -> None:
    answer = (await api.client.get("/api/products")).json()
    assert (answer["recording"], answer["dials"]) == (False, [])
    found = answer["products"]
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


class ResolvedCalls(Calls):
    """Joins get what the service would give them."""

    def check(self, join: JoinRequest) -> JoinRequest:
        defaults = {part: {"provider": "openai", "model": f"a-{part}"} for part in BotPart}
        return Resolver(PRODUCTS, defaults, ["openai"]).resolve(join)


async def test_what_a_join_can_choose_is_listed_with_what_it_gets_otherwise(
    serve_api: ServeApi,
) -> None:
    api = await serve_api(calls=ResolvedCalls())
    found = (await api.client.get("/api/models?product=playground")).json()
    assert found["product"] == "playground"
    assert {part: one["default"]["model"] for part, one in found["parts"].items()} == {
        part.value: f"a-{part}" for part in BotPart
    }
    llm = found["parts"]["llm"]
    assert llm["vendors"] == [{"provider": "openai", "models": ["gpt-4.1"], "voices": None}]


async def test_models_of_no_product_are_refused(api: Api) -> None:
    refused = await api.client.get("/api/models?product=nothing")
    assert (refused.status_code, refused.json()["code"]) == (403, "unknown_product")
