"""JSON Schemas of functions in the subset that Gemini has fields for.

With a keyword beside those (``const``, ``oneOf``, ``exclusiveMinimum``: what pydantic makes of
common types), the SDK refuses each request of the call, and Pipecat's adapter lets them through.
What is lost here the model is not told, but `CallTools` still holds arguments against all of it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

# https://ai.google.dev/api/caching#Schema; what Pipecat's adapter makes of ``type`` and ``enum``
# it makes afterwards.
_KEPT = frozenset(
    {
        *("type", "title", "description", "enum", "default", "pattern", "required"),
        *("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"),
        *("minProperties", "maxProperties"),
    }
)
_FORMATS = frozenset({"date-time", "enum", "float", "double", "int32", "int64"})


def subset_of(schema: Any) -> dict[str, Any]:
    """What Gemini can be told of a schema; whatever else is left out, and so fits anything."""
    if not isinstance(schema, dict):
        return {}
    kept = {name: value for name, value in schema.items() if name in _KEPT}
    if schema.get("format") in _FORMATS:
        kept["format"] = schema["format"]
    if isinstance(schema.get("const"), str):
        kept["enum"] = [schema["const"]]
    for bound in ("Minimum", "Maximum"):
        if f"exclusive{bound}" in schema:
            kept.setdefault(bound.lower(), schema[f"exclusive{bound}"])
    if isinstance(choices := schema.get("anyOf", schema.get("oneOf")), list):
        kept["anyOf"] = [subset_of(one) for one in choices]
    if "items" in schema:
        kept["items"] = subset_of(schema["items"])
    if isinstance(parts := schema.get("properties"), dict):
        kept["properties"] = {name: subset_of(part) for name, part in parts.items()}
        kept["required"] = [name for name in schema.get("required", ()) if name in parts]
    return kept


@cache
def with_gemini_schemas(kind: Any) -> Any:
    """The service whose functions' parameters are told in that subset."""
    from pipecat.adapters.llm.schemas.function_schema import FunctionSchema
    from pipecat.adapters.llm.schemas.tools_schema import ToolsSchema

    class Adapter(kind.adapter_class):  # type: ignore[misc]
        def to_provider_tools_format(self, tools_schema: ToolsSchema) -> Any:
            """As Pipecat's."""
            told = [_told(one) for one in tools_schema.standard_tools]
            return super().to_provider_tools_format(
                ToolsSchema(standard_tools=told, custom_tools=tools_schema.custom_tools)
            )

    def _told(one: Any) -> FunctionSchema:
        reduced = subset_of({"properties": one.properties, "required": one.required})
        return FunctionSchema(one.name, one.description, reduced["properties"], reduced["required"])

    class GeminiSchemas(kind):  # type: ignore[misc]
        adapter_class = Adapter

    GeminiSchemas.__name__ = GeminiSchemas.__qualname__ = kind.__name__
    return GeminiSchemas
