"""What becomes of a piece of vendor work: the table of rules, and what holds for all evidence."""

from __future__ import annotations

import gc
import weakref
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.domain.usage.events import (
    Failure,
    Outcome,
    Provenance,
    Quantities,
    UsageEvent,
)
from flow.domain.usage.token_estimates import count_tokens
from flow.domain.usage.units import UNITS, Kind, Measure
from flow.metering.evidence import (
    Completed,
    Ended,
    Evidence,
    Failed,
    Opening,
    Output,
    Reported,
    Sent,
    Served,
    Unbilled,
    Uncertain,
)
from flow.metering.meter import Meter, Service
from flow.metering.request import RULES, Known, MeteredRequest
from tests.events import an_owner
from tests.notebook import Notebook

OWNER = an_owner(team_id="team_a")
PROMPT = Opening(Quantities(input_tokens=100), model="gpt-4.1", stream=True)
SENTENCE = Opening(
    Quantities(characters=30, audio_seconds=Decimal(2)), sent=Quantities(characters=30)
)
SEGMENT = Opening(
    Quantities(audio_seconds=Decimal("1.5")), sent=Quantities(audio_seconds=Decimal("1.5"))
)
REPORT = Reported(Quantities(input_tokens=90, cache_read_tokens=10, output_tokens=7))
BROKEN = Failure("ReadError", "the answer broke off", 200)
REFUSED = Failure("RateLimitError", "HTTP 429", 429)


def open_(opening: Opening, notebook: Notebook, kind: Kind = Kind.LLM) -> MeteredRequest:
    meter = Meter(Service(kind, "openai", "gpt-4.1"), OWNER, notebook)
    return meter.open(opening)


def ended(
    opening: Opening,
    *evidence: Evidence,
    how: Ended,
    failure: Failure | None = None,
    is_answered: bool = True,
) -> UsageEvent:
    """The one event that comes of it."""
    notebook = Notebook()
    request = open_(opening, notebook)
    if is_answered:
        request.answered()
    for one in evidence:
        request.take(one)
    request.closed(how, failure)
    (event,) = notebook.events
    assert notebook.open == set()
    return event


def test_every_pair_that_can_be_has_a_rule_and_no_other() -> None:
    ends = set(Ended) - {Ended.REFUSED}
    refused = {(Known.NOTHING, Ended.REFUSED)}
    assert set(RULES) == {(k, e) for k in Known for e in ends} | refused
    assert {RULES[pair][1] for pair in RULES if pair[1] is Ended.ABANDONED} == {Outcome.INTERRUPTED}


TEXT = Output("Yes, it will be there tomorrow.")
SOUND = Output(audio_seconds=Decimal("0.5"))
MP3 = Output(audio_seconds=None)
OK, CUT, BAD = Outcome.OK, Outcome.INTERRUPTED, Outcome.ERROR
REP, MEA, EST = Provenance.REPORTED, Provenance.MEASURED, Provenance.ESTIMATED
DONE, LEFT, BROKE = Ended.DONE, Ended.ABANDONED, Ended.BROKEN


@pytest.mark.parametrize(
    ("opening", "evidence", "how", "expected"),
    [
        pytest.param(PROMPT, [TEXT, Completed(), REPORT], DONE, (REP, OK), id="a whole reply"),
        pytest.param(PROMPT, [TEXT, Completed()], DONE, (EST, OK), id="no usage"),
        pytest.param(PROMPT, [TEXT], DONE, (EST, BAD), id="ended early"),
        pytest.param(PROMPT, [TEXT], LEFT, (EST, CUT), id="barge-in"),
        pytest.param(PROMPT, [], LEFT, (EST, CUT), id="barge-in before any output"),
        pytest.param(PROMPT, [TEXT, Completed(), REPORT], LEFT, (REP, CUT), id="drained"),
        pytest.param(PROMPT, [TEXT, REPORT], LEFT, (EST, CUT), id="a report that came too early"),
        pytest.param(PROMPT, [Completed(), REPORT], BROKE, (REP, BAD), id="broke after the report"),
        pytest.param(PROMPT, [TEXT, Failed(BROKEN)], DONE, (EST, BAD), id="an error in the stream"),
        pytest.param(SENTENCE, [SOUND, Completed()], DONE, (MEA, OK), id="a whole sentence"),
        pytest.param(SENTENCE, [SOUND], LEFT, (EST, CUT), id="a sentence cut off"),
        pytest.param(SENTENCE, [MP3, Completed()], DONE, (EST, OK), id="mp3"),
        pytest.param(SEGMENT, [Output(), Completed()], DONE, (MEA, OK), id="a segment"),
        pytest.param(SEGMENT, [], LEFT, (MEA, CUT), id="a segment hung up on"),
        pytest.param(SEGMENT, [], BROKE, (EST, BAD), id="a segment whose answer broke off"),
    ],
)  # fmt: skip
def test_what_is_known_and_how_it_ended_decide(
    opening: Opening, evidence: list[Evidence], how: Ended, expected: tuple[Any, Any]
) -> None:
    failure = BROKEN if how is BROKE else None
    if opening is PROMPT and BROKEN in [getattr(e, "failure", None) for e in evidence]:
        failure = None
    event = ended(opening, *evidence, how=how, failure=failure)
    assert (event.provenance, event.outcome) == expected


@pytest.mark.parametrize("opening", [PROMPT, SENTENCE, SEGMENT])
@pytest.mark.parametrize(
    ("failure", "how"),
    [
        (REFUSED, Ended.REFUSED),
        (Failure("ConnectError", "ConnectError"), Ended.BROKEN),
        (Failure("ConnectTimeout", "ConnectTimeout"), Ended.BROKEN),
        (Failure("PoolTimeout", "PoolTimeout"), Ended.BROKEN),
        (Failure("UnsupportedProtocol", "UnsupportedProtocol"), Ended.BROKEN),
        (Failure("LocalProtocolError", "LocalProtocolError"), Ended.BROKEN),
    ],
)
def test_what_was_refused_or_never_left_costs_nothing(
    opening: Opening, failure: Failure, how: Ended
) -> None:
    event = ended(opening, how=how, failure=failure, is_answered=False)
    assert event.quantities == Quantities()
    assert (event.provenance, event.outcome, event.failure) == (MEA, BAD, failure)


@pytest.mark.parametrize("name", ["ReadTimeout", "ReadError", "RemoteProtocolError", "WriteError"])
@pytest.mark.parametrize("opening", [PROMPT, SENTENCE, SEGMENT])
def test_what_may_have_been_read_is_estimated(opening: Opening, name: str) -> None:
    event = ended(opening, how=Ended.BROKEN, failure=Failure(name, name), is_answered=False)
    assert event.quantities == opening.estimate
    assert (event.provenance, event.outcome) == (EST, BAD)


@pytest.mark.parametrize(
    "late",
    [Reported(Quantities()), Reported(Quantities(), "a note")],
)
def test_a_report_of_nothing_does_not_replace_a_report(late: Reported) -> None:
    report = Reported(Quantities(input_tokens=6_040, cache_read_tokens=33_280, output_tokens=26))
    event = ended(PROMPT, TEXT, Completed(), report, late, how=DONE)
    assert (event.quantities, event.provenance) == (report.quantities, REP)


def test_zeros_and_nothing_else_are_kept_as_zeros() -> None:
    event = ended(PROMPT, TEXT, Completed(), Reported(Quantities()), how=DONE)
    assert (event.quantities, event.provenance, event.outcome) == (Quantities(), REP, OK)


@pytest.mark.parametrize("ends", [[], [Completed()]], ids=["cut off", "whole"])
def test_a_report_that_is_not_final_is_only_a_part(ends: list[Evidence]) -> None:
    seed = Reported(Quantities(input_tokens=90, output_tokens=1), is_final=False)
    event = ended(PROMPT, seed, *ends, how=DONE)
    assert event.quantities == seed.quantities
    assert event.provenance is EST
    longer = ended(PROMPT, seed, TEXT, *ends, how=DONE)
    assert longer.quantities["input_tokens"] == 90
    assert longer.quantities.count("output_tokens") > 5
    whole = ended(PROMPT, seed, TEXT, REPORT, Completed(), how=DONE)
    assert (whole.quantities, whole.provenance) == (REPORT.quantities, REP)


def test_a_final_report_of_zeros_takes_the_place_of_zeros_that_were_not() -> None:
    early, final = Reported(Quantities(), is_final=False), Reported(Quantities())
    event = ended(PROMPT, early, TEXT, final, Completed(), how=DONE)
    assert (event.quantities, event.provenance) == (Quantities(), REP)
    event = ended(PROMPT, early, TEXT, how=LEFT)
    assert event.quantities["input_tokens"] == 100
    assert event.provenance is EST


def test_half_a_report_is_completed_by_the_estimate_and_noted() -> None:
    event = ended(PROMPT, TEXT, Completed(), Reported(Quantities(output_tokens=9)), how=DONE)
    assert event.quantities == Quantities(input_tokens=100, output_tokens=9)
    assert event.provenance is EST
    assert event.note == "the vendor reported only part of the usage"


def test_a_report_in_tokens_stands_beside_the_seconds_that_were_counted() -> None:
    tokens = Quantities(input_tokens=30, input_audio_tokens=30, output_tokens=10)
    event = ended(SEGMENT, Output(), Reported(tokens), Completed(), how=DONE)
    assert event.quantities == tokens.replaced(audio_seconds=Decimal("1.5"))
    assert event.provenance is REP


def test_a_report_in_seconds_takes_the_place_of_those_that_were_counted() -> None:
    report = Reported(Quantities(audio_seconds=Decimal(2)))
    event = ended(SEGMENT, Output(), report, Completed(), how=DONE)
    assert (event.quantities, event.provenance) == (report.quantities, REP)


INPUT = Opening(Quantities(characters=30), sent=Quantities(characters=30))
MORE = Sent(Quantities(characters=12))


@pytest.mark.parametrize(
    ("how", "expected"), [(DONE, (MEA, OK)), (LEFT, (MEA, CUT)), (BROKE, (EST, BAD))]
)
def test_what_is_not_billed_is_not_counted(how: Ended, expected: tuple[Any, Any]) -> None:
    unbilled = Unbilled(MORE.quantities)
    event = ended(INPUT, MORE, SOUND, Completed(), unbilled, how=how)
    assert event.quantities == Quantities(characters=30, audio_seconds=Decimal("0.5"))
    assert (event.provenance, event.outcome) == expected


@pytest.mark.parametrize(("how", "outcome"), [(DONE, OK), (LEFT, CUT), (BROKE, BAD)])
def test_what_is_not_billed_at_all_is_known_to_cost_nothing(how: Ended, outcome: Outcome) -> None:
    unbilled = Unbilled(Quantities(characters=42))
    event = ended(INPUT, MORE, SOUND, Completed(), unbilled, how=how)
    assert (event.quantities, event.provenance, event.outcome) == (Quantities(), MEA, outcome)


def test_what_is_counted_in_doubt_is_an_estimate_that_says_why() -> None:
    event = ended(INPUT, SOUND, Uncertain("nobody knows"), how=LEFT)
    assert event.quantities == Quantities(characters=30, audio_seconds=Decimal("0.5"))
    assert (event.provenance, event.outcome, event.note) == (EST, CUT, "nobody knows")


def test_who_served_is_told_and_the_last_word_counts() -> None:
    served = [Served("gpt-4.1-2025-04-14"), Served(service_tier="flex"), Served(None, None)]
    event = ended(PROMPT, *served, Completed(), REPORT, how=DONE)
    assert (event.model, event.service_tier) == ("gpt-4.1-2025-04-14", "flex")
    assert event.requested_model == "gpt-4.1"


def test_nothing_changes_once_it_is_closed() -> None:
    notebook = Notebook()
    request = open_(PROMPT, notebook)
    request.closed(Ended.ABANDONED)
    before = list(notebook.events)
    for one in (TEXT, REPORT, Completed(), Served("other"), Failed(BROKEN)):
        request.take(one)
    for how in Ended:
        request.closed(how, REFUSED)
    assert notebook.events == before


def test_the_estimate_on_record_grows_with_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flow.metering.request.RENEWED_SECS", 0)
    notebook = Notebook()
    request = open_(PROMPT, notebook)
    for _ in range(20):
        request.take(Output("a few more words of it "))
    (known,) = {event.id for event in notebook.begun}
    assert known == request.id
    estimates = [event.quantities.count("output_tokens") for event in notebook.begun]
    assert estimates == sorted(estimates)
    assert estimates[-1] > 60


def test_a_long_answer_is_counted_as_it_comes_and_the_rest_of_it_in_the_end() -> None:
    notebook = Notebook()
    request = open_(PROMPT, notebook)
    said = [f"sentence number {n} of a long answer. " for n in range(2_000)]
    for part in said:
        request.take(Output(part))
    request.closed(Ended.ABANDONED)
    (event,) = notebook.events
    in_one = count_tokens("".join(said))
    assert event.quantities.count("output_tokens") == pytest.approx(in_one, abs=20)


def test_work_under_way_when_the_meter_closes_is_counted_once() -> None:
    notebook = Notebook()
    meter = Meter(Service(Kind.LLM, "openai", "gpt-4.1"), OWNER, notebook)
    requests = [meter.open(PROMPT) for _ in range(3)]
    requests[0].closed(Ended.DONE)
    meter.close()
    meter.close()
    assert [event.outcome for event in notebook.events] == [BAD, CUT, CUT]
    assert meter.recorded == 3


amounts = st.integers(0, 10**6)
reports = st.builds(
    lambda i, r, w, o: Reported(
        Quantities(input_tokens=i, cache_read_tokens=r, cache_write_tokens=w, output_tokens=o)
    ),
    amounts, amounts, amounts, amounts,
)  # fmt: skip
seconds = st.decimals(0, 100, places=6)
evidence = st.one_of(
    st.builds(Output, st.text(max_size=60)),
    st.builds(Output, st.just(""), st.one_of(st.none(), seconds)),
    st.builds(Served, st.one_of(st.none(), st.just("m")), st.none()),
    st.builds(lambda n: Sent(Quantities(characters=n)), amounts),
    st.builds(lambda n: Unbilled(Quantities(characters=n)), amounts),
    st.just(Uncertain("nobody knows")),
    reports,
    st.just(Completed()),
    st.just(Failed(BROKEN)),
)


@given(
    st.sampled_from([PROMPT, SENTENCE, SEGMENT]),
    st.lists(evidence, max_size=12),
    st.sampled_from(Ended),
    st.sampled_from([None, BROKEN, REFUSED, Failure("ConnectError", ""), Failure("ReadError", "")]),
    st.booleans(),
)
def test_any_evidence_gives_exactly_one_event_with_disjoint_quantities(
    opening: Opening,
    found: list[Evidence],
    how: Ended,
    failure: Failure | None,
    is_answered: bool,
) -> None:
    if how is Ended.REFUSED:  # as a tap closes what was refused
        failure, is_answered, found = REFUSED, False, []
    event = ended(opening, *found, how=how, failure=failure, is_answered=is_answered)
    for unit in event.quantities:
        assert event.quantities[unit] > 0
        whole = UNITS[unit].part_of
        assert whole is None or event.quantities[unit] <= event.quantities[whole]
    told = [e.quantities for e in found if isinstance(e, Reported) and e.quantities]
    if told and event.provenance is Provenance.REPORTED:
        tokens = {u: n for u, n in event.quantities.items() if UNITS[u].measure is Measure.TOKENS}
        assert tokens == dict(told[-1])


def test_the_time_to_the_first_output_is_that_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr("flow.metering.request.time", clock)
    notebook = Notebook()
    request = open_(PROMPT, notebook)
    for at in (100.25, 101.0):
        clock.now = at
        request.take(TEXT)
    clock.now = 102.5
    request.closed(DONE)
    (event,) = notebook.events
    assert (event.time_to_first_token_secs, event.latency_secs) == (0.25, 2.5)


SAID_FIRST, SAID_NEXT = Failure("APIError", "overloaded"), Failure("APIError", "once more")


@pytest.mark.parametrize(
    ("how", "failure", "expected"),
    [(BROKE, BROKEN, BROKEN), (BROKE, None, SAID_FIRST), (DONE, None, SAID_FIRST)],
)
def test_how_the_wire_failed_goes_before_what_the_vendor_said_first(
    how: Ended, failure: Failure | None, expected: Failure
) -> None:
    event = ended(PROMPT, TEXT, Failed(SAID_FIRST), Failed(SAID_NEXT), how=how, failure=failure)
    assert (event.failure, event.outcome) == (expected, BAD)


@pytest.mark.parametrize("failure", [REFUSED, Failure("ConnectError", "ConnectError")])
@pytest.mark.parametrize("output", [[], [TEXT]], ids=["nothing", "text"])
def test_what_was_answered_is_billed_though_it_fails_as_a_refusal_does(
    failure: Failure, output: list[Evidence]
) -> None:
    event = ended(PROMPT, *output, Failed(failure), how=DONE)
    assert event.quantities["input_tokens"] == PROMPT.estimate["input_tokens"]
    assert (event.quantities["output_tokens"] > 0) == bool(output)
    assert (event.provenance, event.outcome) == (EST, BAD)


def test_a_meter_keeps_nothing_of_a_request_that_is_over() -> None:
    meter = Meter(Service(Kind.LLM, "openai", "gpt-4.1"), OWNER, Notebook())
    request = meter.open(PROMPT)
    kept = weakref.ref(request)
    request.closed(LEFT)
    del request
    gc.collect()
    assert kept() is None
    assert meter.recorded == 1
