"""Bodies that are changed in one place and nowhere else."""

from __future__ import annotations

import json
from email.message import Message
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.errors import Refused
from flow.gateway.bodies import FormBody, JsonBody

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
names = st.text(max_size=8).filter(lambda name: name.lower() != "model")
objects = st.dictionaries(names, values)
layouts = st.sampled_from([(None, None), (None, (",", ":")), (2, None), ("\t", (" ,\r\n", " : "))])


@given(objects, objects, layouts, st.booleans())
def test_changing_fields_is_what_parsing_changing_and_writing_would_do(
    fields: dict[str, Any], changes: dict[str, Any], layout: Any, ascii_only: bool
) -> None:
    indent, separators = layout
    text = json.dumps(fields, indent=indent, separators=separators, ensure_ascii=ascii_only)
    given_body = f" {text}\n".encode("utf-8", "surrogatepass")
    try:
        given_body.decode()
    except UnicodeDecodeError:
        with pytest.raises(Refused):
            JsonBody.parse(given_body)
        return
    body = JsonBody.parse(given_body)
    assert body.fields == fields
    assert body.changed({}) == given_body
    assert json.loads(body.changed(changes)) == fields | changes


def test_all_else_stays_to_the_byte() -> None:
    text = '{"a" : 1e400,\t"model":"x/y" , "b":[1.0,{"model":"no"}],"c":"\\u00e9é"}'
    changed = JsonBody.parse(text.encode()).changed({"model": "y", "new": True})
    assert changed.decode() == text.replace('"x/y"', '"y"')[:-1] + ',"new":true}'


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"{", b"}", b'{"a"}', b'{"a":1,}', b'{"a":1}{}', b'{"a":1 "b":2}',
        b"{'a':1}", b'{"a":tru}', b"{1:2}", b"\xef\xbb\xbf{}", b'{"a":"\x00"}', b"\xff",
        b'{"a":1,"a":1}', b'{"model":1,"MODEL":2}', b'{"a":' + b"[" * 200_000,
    ],
)  # fmt: skip
def test_what_is_no_object_or_could_be_read_in_two_ways_is_refused(body: bytes) -> None:
    with pytest.raises(Refused) as raised:
        JsonBody.parse(body)
    assert raised.value.code == "malformed_request"


def form(*parts: tuple[str, bytes], boundary: str = "b=1'()") -> tuple[bytes, str]:
    lines = [
        f"--{boundary}\r\nContent-Disposition: form-data; {name}\r\n\r\n".encode() + value + b"\r\n"
        for name, value in parts
    ]
    head = Message()
    head.add_header("content-type", "multipart/form-data", boundary=boundary)
    return b"".join([*lines, f"--{boundary}--\r\n".encode()]), head["content-type"]


@given(st.binary(), st.binary())
def test_a_form_is_changed_where_its_model_stands(before: bytes, after: bytes) -> None:
    for value in (before, after):
        if b"--b=1" in value:
            return
    parts = [('name="file"; filename="a\\"b.wav"', before), ('name="model"', b"v/m"),
             ("name=language", after)]  # fmt: skip
    body, kind = form(*parts)
    parsed = FormBody.parse(body, kind)
    assert parsed.fields == {"file": before, "model": b"v/m", "language": after}
    parts[1] = (parts[1][0], b"m")
    assert parsed.changed({"model": "m"}) == form(*parts)[0]


@pytest.mark.parametrize(
    ("body", "kind", "code"),
    [
        (b"", "multipart/form-data; boundary=x", "malformed_request"),
        (b"--x\r\n", "multipart/form-data; boundary=x", "malformed_request"),
        (b"--x--", "multipart/form-data", "unsupported_media_type"),
        (b"{}", "application/json", "unsupported_media_type"),
        (form(("a=1", b""))[0], form()[1], "malformed_request"),
        (*form(('name="model"', b"a"), ('name="model"', b"b")), "malformed_request"),
    ],
)
def test_forms_that_cannot_be_read(body: bytes, kind: str, code: str) -> None:
    with pytest.raises(Refused) as raised:
        FormBody.parse(body, kind)
    assert raised.value.code == code
