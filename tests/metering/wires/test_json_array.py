"""JSON arrays that come bit by bit: the same objects, wherever the bytes are cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flow.metering.wires.json_array import JsonArray
from tests.metering.wires.reading import cut

ODD = r'a "quoted" \ backslash, { [ ] } and a \" pair'

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='a"\\{}[],: ü', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(alphabet='b"\\}', max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
objects = st.lists(st.dictionaries(st.text(alphabet='k"\\{', max_size=3), values, max_size=3))


def read(chunks: list[bytes]) -> tuple[list[Any], bool]:
    array = JsonArray()
    found = [json.loads(one) for chunk in chunks for one in array.feed(chunk)]
    return found, array.is_whole


@given(objects, st.lists(st.integers(0, 500), max_size=8), st.sampled_from([None, 2]))
@example([{"text": ODD}], list(range(200)), None)
@example([{ODD: {"}": ["{", "]"]}}, {}], list(range(200)), 2)
def test_the_objects_are_the_same_wherever_the_bytes_are_cut(
    sent: list[dict[str, Any]], places: list[int], indent: int | None
) -> None:
    data = json.dumps(sent, indent=indent).encode()
    assert read(cut(data, places)) == (sent, True)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_an_array_is_read_byte_by_byte_too(size: int) -> None:
    sent = [{"text": ODD}, {"parts": [ODD, {"deep": [[{}]]}]}]
    data = json.dumps(sent).encode()
    assert read([data[n : n + size] for n in range(0, len(data), size)]) == (sent, True)


def test_a_single_object_is_given_and_what_is_none_is_passed_over() -> None:
    assert read([b'{"error": {"code": 429}}']) == ([{"error": {"code": 429}}], True)
    assert read([b'[1, "{", null, [2], {"a": 1}]'])[0][-1] == {"a": 1}


def test_an_array_that_is_cut_off_is_not_whole() -> None:
    assert read([b'[{"a": 1}, {"b"']) == ([{"a": 1}], False)
