"""What callers say: a call of as many lines as it takes to be in the middle of it."""

from __future__ import annotations

from dataclasses import replace

from flow.sandbox.callers.script import AfterBot, Line, Script
from tests.calls.test_call import SHORT

SHOP = replace(
    SHORT,
    lines=(
        Line("Hello, are you open today?", "Yes, we are open until six."),
        Line("Do you have any green tea?", "We have three kinds of green tea."),
        Line("How much is a small bag of it?", "A small bag is four euros and fifty cents."),
        Line("Could you send it to me by post?", "Of course, that takes two days."),
        Line("My name is Miller, from the second floor.", "Thank you, I have noted that down."),
        Line("What about black coffee beans?", "Those come fresh every Thursday morning."),
        Line("Is there a discount for regular customers?", "Every tenth bag is free."),
        Line("Then I will come and have a look tomorrow.", "We are looking forward to it."),
        Line("Where can I park my bicycle?", "There is a rack behind the house."),
        Line("That is all I wanted to know.", "Have a nice day then."),
    ),
    hang_up=AfterBot(1.5),
    token_secs=0.02,
)
"""All that callers say; the ears know each line. One line and its reply take about five seconds."""


def first(lines: int) -> Script:
    """The beginning of `SHOP`."""
    return replace(SHOP, lines=SHOP.lines[:lines])
