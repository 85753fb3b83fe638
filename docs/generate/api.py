"""The HTTP API, from its own OpenAPI document."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, cast

from prometheus_client import CollectorRegistry

from flow.api.app import create_app
from flow.api.dependencies import MediaStreamCalls, Services, Transports
from flow.bot.transports import TRANSPORTS
from flow.bot.transports.spec import MediaStreamSpec
from generate.markdown import Descriptions, code, page, paragraphs, table

_INTRO = """\
A key goes into `Authorization: Bearer KEY` or `X-API-Key: KEY`. Bodies and answers are JSON;
unknown fields of a body are refused by name. Errors are [problem details](errors.md). A running
service shows this page at `/docs`, where requests can be tried, and the document that both are
made of at `/openapi.json`. What the [LLM gateway](../guides/gateway.md) serves is described by
OpenAI and Anthropic."""

_TITLES = {
    "calls": "Calls",
    "threads": "Threads",
    "usage": "Usage",
    "limits": "Limits and products",
    "gateway": "Gateway",
    "operations": "Health and metrics",
}
_PHRASES = {"Successful Response", *(status.phrase for status in HTTPStatus)}


class _Stream:
    """The carrier of a telephone transport, as far as its routes go."""

    def __init__(self, name: str, webhook: str, webhook_openapi: Mapping[str, Any]) -> None:
        self.name = name
        self.webhook = webhook
        self.webhook_openapi = webhook_openapi


def document() -> dict[str, Any]:
    """The OpenAPI document of a service with every transport.

    Nothing is asked of the parties of this service: only its routes are looked at.
    """
    nobody = cast(Any, None)
    streams = {
        name: cast(MediaStreamCalls, _Stream(name, spec.webhook, spec.webhook_openapi))
        for name, spec in TRANSPORTS.items()
        if isinstance(spec, MediaStreamSpec)
    }
    services = Services(
        database=nobody,
        keys=nobody,
        calls=nobody,
        products=nobody,
        models=nobody,
        has_price=nobody,
        transports=Transports(specs=TRANSPORTS, streams=streams),
        secret=bytes(32),
        feed=nobody,
        registry=CollectorRegistry(),
    )
    return create_app(services).openapi()


def api_page(descriptions: Descriptions) -> str:
    """The reference of every path and every model."""
    described = document()
    schemas = described["components"]["schemas"]
    parts = [_INTRO]
    for tag, operations in _by_tag(described["paths"]).items():
        parts.append(f"## {_TITLES.get(tag, tag.replace('-', ' ').capitalize())}")
        for method, path, operation in operations:
            parts += _operation(method, path, operation, descriptions)
    parts.append("## Models")
    for name in sorted(schemas):
        parts += _model(name, schemas[name], descriptions)
    return page("HTTP API", *parts)


def _by_tag(paths: Mapping[str, Any]) -> dict[str, list[tuple[str, str, Any]]]:
    found: dict[str, list[tuple[str, str, Any]]] = {}
    for path, operations in paths.items():
        for method, operation in operations.items():
            (tag, *_) = operation.get("tags", ["other"])
            found.setdefault(tag, []).append((method.upper(), path, operation))
    return found


def _operation(method: str, path: str, operation: Any, descriptions: Descriptions) -> Iterator[str]:
    name = f"{method} {path}"
    yield f"### {method} `{path}`"
    text = operation.get("description")
    descriptions.of(name, text)
    yield paragraphs(text or "")
    if parameters := operation.get("parameters"):
        rows = [
            [
                code(one["name"]),
                one["in"],
                _type(one.get("schema", {})) + (", required" if one.get("required") else ""),
                descriptions.of(f"{name}: {one['name']}", one.get("description")),
            ]
            for one in parameters
        ]
        yield table(["parameter", "in", "type", "meaning"], rows)
    if body := operation.get("requestBody"):
        kinds = [
            f"{code(kind)}: {_type(content.get('schema', {}))}"
            for kind, content in body["content"].items()
        ]
        yield f"**Body** {'; '.join(kinds)}."
        yield from _examples(body["content"].get("application/json", {}))
    yield _answers(operation["responses"])


def _answers(responses: Mapping[str, Any]) -> str:
    said = {
        status: (_answer_type(answer), answer.get("description", ""))
        for status, answer in sorted(responses.items())
    }
    problems = [status for status, (kind, _) in said.items() if kind.startswith("[Problem]")]
    lines = [
        f"- {code(status)} {kind}{'' if text in _PHRASES else f': {text}'}"
        for status, (kind, text) in said.items()
        if status not in problems
    ]
    if problems:
        lines.append(f"- {', '.join(map(code, problems))} [Problem](#model-problem)")
    return "\n".join(["**Answers**", "", *lines])


def _examples(content: Any) -> Iterator[str]:
    for example in content.get("examples", {}).values():
        if example["value"]:
            shown = json.dumps(example["value"], indent=2, ensure_ascii=False)
            yield f"{example['summary']}:\n\n```json\n{shown}\n```"


def _answer_type(answer: Any) -> str:
    kinds = [
        _type(content.get("schema", {})) or code(kind)
        for kind, content in answer.get("content", {}).items()
    ]
    return ", ".join(kinds)


def _model(name: str, schema: Any, descriptions: Descriptions) -> Iterator[str]:
    yield f"### {name} {{ #{_anchor(name)} }}"
    text = schema.get("description")
    descriptions.of(f"model {name}", text)
    yield paragraphs(text or "")
    if "enum" in schema:
        yield "One of " + ", ".join(map(code, schema["enum"])) + "."
    if properties := schema.get("properties"):
        required = set(schema.get("required", ()))
        rows = [
            [
                code(field),
                _type(one) + ("" if field in required else _default(one)),
                descriptions.of(f"model {name}: {field}", one.get("description")),
            ]
            for field, one in properties.items()
        ]
        yield table(["field", "type", "meaning"], rows)


def _default(schema: Any) -> str:
    default = schema.get("default")
    if default is None or isinstance(default, dict | list):
        return ""
    return f", {code(json.dumps(default))} if left out"


def _type(schema: Any) -> str:
    """A type in a few words, with a link where it is a model."""
    if reference := schema.get("$ref"):
        name = reference.rpartition("/")[2]
        return f"[{name}](#{_anchor(name)})"
    if choices := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        return " or ".join(dict.fromkeys(_type(one) for one in choices))
    if "enum" in schema:
        return " or ".join(code(value) for value in schema["enum"])
    if "const" in schema:
        return code(schema["const"])
    kind = schema.get("type", "")
    if kind == "array":
        return f"list of {_type(schema.get('items', {})) or 'anything'}"
    return (schema.get("format") or kind or "").replace("date-time", "time") + _limits(schema)


def _limits(schema: Any) -> str:
    least = schema.get("minimum", schema.get("minLength"))
    most = schema.get("maximum", schema.get("maxLength"))
    if most is None:
        return ""
    if "maxLength" in schema:
        return f" of up to {most} characters"
    return f" {least:g} to {most:g}" if least is not None else f" up to {most:g}"


def _anchor(name: str) -> str:
    return f"model-{name.lower()}"
