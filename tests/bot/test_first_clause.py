"""A voice is given the first clause of a reply as soon as it is there."""

from __future__ import annotations

import pytest

from flow.bot.first_clause import FirstClauseAggregator


async def pieces(aggregator: FirstClauseAggregator, reply: str) -> list[str]:
    found = [one.text for token in reply for one in [x async for x in aggregator.aggregate(token)]]
    if (rest := await aggregator.flush()) is not None:
        found.append(rest.text)
    return found


@pytest.mark.parametrize(
    ("reply", "given"),
    [
        (
            "Thank you for calling, how may I help, please? We are open, too, on Sundays.",
            [
                "Thank you for calling,",
                "how may I help, please?",
                "We are open, too, on Sundays.",
            ],
        ),
        ("Yes, we are open until six.", ["Yes, we are open until six."]),
        ("No. That is quite all right, thank you.", ["No.", "That is quite all right, thank you."]),
        ("That costs about 1,250 euros.", ["That costs about 1,250 euros."]),
        ("We have these three: red, green.", ["We have these three:", "red, green."]),
        ("", []),
    ],
)
async def test_only_the_first_clause_goes_before_its_sentence(reply: str, given: list[str]) -> None:
    aggregator = FirstClauseAggregator()
    assert await pieces(aggregator, reply) == given
    # The next reply begins anew.
    assert await pieces(aggregator, reply) == given


async def test_after_an_interruption_a_reply_begins_anew() -> None:
    aggregator = FirstClauseAggregator()
    cut_off = "Thank you for calling, how may"
    assert [one.text async for one in aggregator.aggregate(cut_off)] == ["Thank you for calling,"]
    await aggregator.handle_interruption()
    assert await pieces(aggregator, cut_off) == ["Thank you for calling,", "how may"]
