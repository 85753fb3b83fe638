"""OpenAI's embeddings (platform.openai.com/docs/api-reference/embeddings): input, and no output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from flow.domain.usage.events import Quantities
from flow.domain.usage.token_estimates import count_tokens
from flow.domain.usage.vendor_reports import Counting, from_openai_usage
from flow.metering.evidence import Completed, Evidence, Opening, Output, Served
from flow.metering.wires.answer import JsonExchange, report, text, within
from flow.metering.wires.reader import HttpRequest, unreadable

PATH = "/embeddings"


class OpenAIEmbeddings:
    """Reads embeddings."""

    def open(self, request: HttpRequest) -> EmbeddingsExchange | None:
        """An exchange for every ``POST .../embeddings``."""
        if request.method != "POST" or not request.path.endswith(PATH):
            return None
        return EmbeddingsExchange(request.json)


class EmbeddingsExchange(JsonExchange):
    """One text or many, and their vectors."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        model = text(request.get("model"))
        prompt = _tokens(request.get("input"), model)
        super().__init__(Opening(Quantities(input_tokens=prompt), model=model or None))

    def _event(self, event: Mapping[str, Any]) -> Iterator[Evidence]:
        yield unreadable("a stream of embeddings")

    def _whole(self, answer: Any) -> Iterator[Evidence]:
        if not isinstance(within(answer, "data"), list):
            yield unreadable("the embeddings")
            return
        yield Output()
        if model := text(answer.get("model")):
            yield Served(model)
        if isinstance(usage := answer.get("usage"), Mapping):
            tokens = from_openai_usage(usage)
            if tokens.completion_tokens is None and tokens.prompt_tokens is not None:
                tokens = replace(tokens, completion_tokens=0)
            yield from report(tokens, Counting.GROSS)
        yield Completed()


def _tokens(given: Any, model: str) -> int:
    """The tokens of the input: text, or numbers of tokens, or a list of either."""
    if isinstance(given, str):
        return count_tokens(given, model)
    if isinstance(given, list):
        return sum(_tokens(item, model) for item in given)
    return int(isinstance(given, int))
