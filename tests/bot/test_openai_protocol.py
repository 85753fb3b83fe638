"""Vendors of OpenAI's protocol: where each is, and what a request to it says."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from flow.bot.join_defaults import Resolver
from flow.bot.service_choices import choice_of
from flow.bot.services import CallServices
from flow.bot.vendors import VENDORS
from flow.bot.vendors.spec import Choice
from flow.domain.calls.bot_part import BotPart
from flow.domain.calls.join_request import JoinRequest
from flow.domain.products.product import Product, Products
from flow.errors import FieldProblem, InvalidInput
from flow.vendors.openai_client import openai_endpoint
from tests.contract.service_run import running
from tests.contract.vendors import ROWS, Row
from tests.events import an_owner
from tests.notebook import Notebook

CHATS = [
    row for row in ROWS if row.part is BotPart.LLM and "openai" in (row.vendor, row.protocol_of)
]


@pytest.mark.parametrize("row", CHATS, ids=lambda row: row.name)
async def test_the_longest_reply_is_said_as_the_vendor_takes_it(row: Row) -> None:
    notebook = Notebook()
    async with row.serve() as vendor:
        services = CallServices(an_owner(), notebook, {row.vendor: vendor.endpoint})
        choice = Choice(row.vendor, row.model, {**row.options, "max_tokens": 7})
        async with running(services, BotPart.LLM, choice) as run:
            await run.ask()
            await run.finished()
    assert [event.quantities["output_tokens"] for event in notebook.events] == [7]
    (line,) = vendor.bill.lines
    assert line.amounts.completion_tokens == 7


def resolver() -> Resolver:
    defaults = {
        "stt": {"provider": "openai", "model": "whisper-1"},
        "llm": {"provider": "openai", "model": "gpt-4.1"},
        "tts": {"provider": "openai", "model": "tts-1", "voice": "alloy"},
        "realtime": {"provider": "openai", "model": "gpt-realtime"},
    }
    products = [Product("voice_bot", billable=True), Product("insights", True, calls=False)]
    return Resolver(Products(products), defaults, ["openai", "groq"])


def problems_of(**llm: str) -> list[FieldProblem]:
    with pytest.raises(InvalidInput) as refused:
        resolver().resolve(JoinRequest.model_validate({"bot": {"llm": llm}}))
    return list(refused.value.problems)


@pytest.mark.parametrize(
    ("vendor", "variable", "missing"),
    [
        ("deepseek", "DEEPSEEK_BASE_URL", "set DEEPSEEK_API_KEY."),
        (
            "azure",
            "AZURE_OPENAI_ENDPOINT",
            "set AZURE_OPENAI_API_KEY or AZURE_OPENAI_ENDPOINT.",
        ),
    ],
)
def test_a_vendor_that_is_not_set_up_tells_the_operator_what_it_needs(
    vendor: str, variable: str, missing: str
) -> None:
    assert VENDORS[vendor].base_url_variable == variable
    (problem,) = problems_of(provider=vendor, model="m")
    assert problem.field == "bot.llm.provider"
    assert problem.message == f"'{vendor}' is not set up here"
    assert missing in str(problem.hint)


@pytest.mark.parametrize(
    ("api", "service"),
    [
        (None, "OpenAILLMService"),
        ("chat", "OpenAILLMService"),
        ("responses", "OpenAIResponsesHttpLLMService"),
    ],
)
async def test_a_join_chooses_the_api_of_its_language_model(api: str | None, service: str) -> None:
    asked = JoinRequest.model_validate({"bot": {"llm": {"api": api}}})
    bot = resolver().resolve(asked).bot
    endpoint = openai_endpoint(SecretStr("sk-fake"))
    services = CallServices(an_owner(), Notebook(), {"openai": endpoint})
    built = services.build(BotPart.LLM, choice_of(BotPart.LLM, bot))
    assert type(built).__name__ == service
    await endpoint.close()


def test_an_api_that_a_vendor_does_not_have_is_refused_by_name() -> None:
    (problem,) = problems_of(provider="groq", model="m", api="responses")
    assert problem == FieldProblem("bot.llm.api", "'groq' has no API 'responses': leave it out")
