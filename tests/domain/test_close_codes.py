"""A caller is told why the call ended, in a code that a program can tell from the others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flow.domain.calls.close_codes import CLOSE_CODES, MAX_REASON_BYTES, close_of
from flow.domain.calls.ending import Ending, EndReason

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "calls.md"
ALIKE = {1000, 1012}
"""Codes of several reasons: ends that a caller wanted, and those after which to join again."""


@pytest.mark.parametrize("reason", EndReason)
def test_every_reason_has_a_code_that_may_be_sent(reason: EndReason) -> None:
    code, said = close_of(Ending(reason))
    assert code in {1000, 1011, 1012} or 4000 <= code <= 4999
    assert said == ("ended" if reason == "pipeline_ended" else reason)


def test_no_two_reasons_share_a_code_that_is_not_for_several() -> None:
    codes = [code for code in CLOSE_CODES.values() if code not in ALIKE]
    assert len(codes) == len(set(codes))


def test_the_service_or_the_code_of_an_error_is_named() -> None:
    assert close_of(
        Ending(EndReason.VENDOR_FAILURE, {"code": "vendor_failure", "service": "tts"})
    ) == (
        1011,
        "vendor_failure: tts",
    )
    failed = Ending(EndReason.ERROR, {"code": "pipeline_failed"})
    assert close_of(failed) == (4011, "error: pipeline_failed")


def test_a_reason_fits_into_a_close_frame() -> None:
    said = close_of(Ending(EndReason.ERROR, {"service": "\u00e9" * 500})).reason
    assert len(said.encode()) <= MAX_REASON_BYTES


def test_a_call_that_nothing_ended_has_ended() -> None:
    assert close_of(None) == (1000, "ended")


UNSENT = {
    "caller_hung_up", "cancelled", "handed_over", "nobody_came", "process_lost",
    "busy", "no_answer", "dial_failed", "voicemail", "transferred",
}  # fmt: skip
"""The caller has closed it, or there is no socket: ends of calls in rooms, and of threads."""


def test_the_docs_have_the_table() -> None:
    rows = re.findall(r"^\| (\d{4}) \| `(\w+)[^`]*` \|", PAGE.read_text(), re.MULTILINE)
    sent = {close_of(Ending(reason)) for reason in set(CLOSE_CODES) - UNSENT}
    assert {(int(code), reason) for code, reason in rows} == sent
