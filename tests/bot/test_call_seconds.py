"""How many seconds a call is counted, and under which account."""

from __future__ import annotations

from decimal import Decimal

import pytest

from flow.bot.call_seconds import UNTIL_ACCEPTED, CallSeconds
from flow.domain.usage.events import CostControl, Owner, Provenance
from tests.notebook import Notebook


def counted(notebook: Notebook) -> Decimal:
    (event,) = notebook.events
    return event.quantities.seconds("call_seconds")


@pytest.fixture
def seconds(owner: Owner, notebook: Notebook) -> CallSeconds:
    return CallSeconds(owner, notebook, CostControl)


def test_a_call_counts_from_the_caller_s_coming_to_its_end(
    seconds: CallSeconds, notebook: Notebook
) -> None:
    seconds.begin(100.0)
    seconds.accept(104.0)
    seconds.end(109.5)
    assert counted(notebook) == Decimal("9.5")
    (event,) = notebook.events
    assert (event.note, event.provenance) == (None, Provenance.MEASURED)


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [([], 0), ([104.0], 4), ([104.0, 107.0], 7), ([107.0, 104.0], 7)],
    ids=["never", "once", "twice", "answers-out-of-order"],
)
def test_a_call_that_was_taken_over_counts_to_its_last_accepted_sign_of_life(
    seconds: CallSeconds, notebook: Notebook, accepted: list[float], expected: int
) -> None:
    seconds.begin(100.0)
    for sent_at in accepted:
        seconds.accept(sent_at)
    seconds.lose()
    seconds.renew(120.0)
    seconds.end(130.0)
    assert counted(notebook) == expected
    assert notebook.begun[-1].quantities == notebook.events[0].quantities
    assert notebook.events[0].note == UNTIL_ACCEPTED


def test_a_call_that_never_began_has_no_account(seconds: CallSeconds, notebook: Notebook) -> None:
    seconds.renew(100.0)
    seconds.end(120.0)
    assert notebook.begun == notebook.events == []


def test_every_note_of_a_call_is_of_one_event(seconds: CallSeconds, notebook: Notebook) -> None:
    seconds.begin(100.0)
    seconds.renew(105.0)
    seconds.end(110.0)
    assert len({event.id for event in (*notebook.begun, *notebook.events)}) == 1
    noted = [event.quantities.seconds("call_seconds") for event in notebook.begun]
    assert noted == [Decimal(0), Decimal(5)]
