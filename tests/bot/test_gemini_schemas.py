"""What Gemini is told of functions' parameters: no more than its SDK takes."""

from __future__ import annotations

from typing import Any

import pytest
from google.genai.types import Schema

from flow.bot.vendors.gemini_schemas import subset_of

SCHEMAS: list[tuple[Any, dict[str, Any]]] = [
    (True, {}),
    ({"const": "a"}, {"enum": ["a"]}),
    ({"oneOf": [{"type": "string"}, True]}, {"anyOf": [{"type": "string"}, {}]}),
    ({"type": "number", "exclusiveMinimum": 0}, {"type": "number", "minimum": 0}),
    ({"type": "string", "format": "email"}, {"type": "string"}),
    ({"type": "string", "format": "date-time"}, {"type": "string", "format": "date-time"}),
    ({"type": "array", "items": {"not": {}}, "prefixItems": []}, {"type": "array", "items": {}}),
    ({"if": {}, "then": {}, "multipleOf": 2, "uniqueItems": True, "$comment": "x"}, {}),
    (
        {"type": "object", "properties": {"const": {"const": 1}}, "required": ["const", "b"]},
        {"type": "object", "properties": {"const": {}}, "required": ["const"]},
    ),
]


@pytest.mark.parametrize(("schema", "told"), SCHEMAS, ids=str)
def test_gemini_is_told_what_it_has_fields_for(schema: Any, told: dict[str, Any]) -> None:
    assert subset_of(schema) == told
    Schema.model_validate(told)
