"""Save mode on every vendor's language model: what goes over the wire is cheaper, and on record."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flow.bot.cost_control import Spending
from flow.bot.services import CallServices
from flow.domain.calls.bot_part import BotPart
from flow.domain.products.product import Product, Saving
from flow.domain.products.save_mode import SaveMode
from tests.contract.service_run import running
from tests.contract.vendors import ROWS, Row, assert_conserved
from tests.events import an_owner
from tests.notebook import Notebook

LONGEST = 16
CHEAPER = {
    "gpt-4.1": "gpt-4.1-mini",
    "claude-haiku-4-5": "claude-3-haiku",
    "gemini-2.5-flash": "gemini-2.5-flash-lite",
}
"""What takes a model's place; another stays as it is."""

of_each_language_model = pytest.mark.parametrize(
    "row", [row for row in ROWS if row.part is BotPart.LLM], ids=lambda row: row.name
)


def spending(row: Row, mode: SaveMode) -> Spending:
    """A call's cost control where everything is done to save."""
    models = {
        f"{row.vendor}/{costly}": f"{row.vendor}/{cheap}" for costly, cheap in CHEAPER.items()
    }
    saving = Saving(models, LONGEST, "Be brief.", prompt_cache=True)
    product = Product("voice_bot", billable=True, save_mode=mode, saving=saving)
    return Spending(product, cache_key="a call", enabled=lambda: True)


@pytest.mark.parametrize("mode", [SaveMode.ON, SaveMode.OFF])
@of_each_language_model
async def test_a_cheaper_model_says_less_and_the_account_says_why(row: Row, mode: SaveMode) -> None:
    saves, notebook, control = mode is SaveMode.ON, Notebook(), spending(row, mode)
    async with row.serve() as vendor:
        services = CallServices(
            an_owner(),
            notebook,
            {row.vendor: vendor.endpoint},
            control=control.control,
            shape=control.request,
        )
        async with running(services, row.part, row.choice) as run:
            await run.ask()
            await run.finished()
        await vendor.bill.settled()
    [line], [event] = vendor.bill.lines, notebook.events
    cheap = CHEAPER.get(row.model)
    assert line.requested_model == (cheap if saves and cheap else row.model)
    assert (line.amounts.completion_tokens <= LONGEST) is saves
    assert event.requested_model == row.model
    assert event.sent_model == (cheap if saves else None)
    assert (event.control.save_mode, event.control.save_mode_reason) == (
        (True, "on_by_product") if saves else (False, "off_by_product")
    )
    assert_conserved(notebook.events, vendor.bill)


async def test_openai_is_told_the_call_s_key_to_its_cache() -> None:
    """The stand-in's cache shares nothing between keys: the first request with one reads none."""
    row = replace(ROWS[0], options={"system_instruction": "A sentence like any other. " * 300})
    saves = {"now": False}
    product = Product("voice_bot", True, save_mode=SaveMode.ON, saving=Saving(prompt_cache=True))
    control = Spending(product, cache_key="a call", enabled=lambda: saves["now"])
    async with row.serve() as vendor:
        services = CallServices(
            an_owner(), Notebook(), {row.vendor: vendor.endpoint}, shape=control.request
        )
        async with running(services, row.part, row.choice) as run:
            for n, saves["now"] in enumerate([False, False, True, True], 1):
                await run.ask()
                await run.finished(n)
    read = [line.amounts.cached_tokens for line in vendor.bill.lines]
    assert [tokens >= 1024 for tokens in read] == [False, True, False, True]
