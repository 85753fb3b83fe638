"""``POST /v1/embeddings``: texts, or their tokens, to vectors."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from hashlib import sha256
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from flow.sandbox.bill import Amounts, Bill, Line
from flow.sandbox.openai.errors import ApiError, from_validation
from flow.sandbox.openai.tokens import encode
from flow.sandbox.stand_in import exchange_of, hits_of

# platform.openai.com, "Vector embeddings" and the reference of `input`.
DIMENSIONS = {"text-embedding-3-large": 3072}
USUAL_DIMENSIONS = 1536
LONGEST_INPUT_TOKENS = 8_192
MOST_INPUTS = 2_048

Tokens = list[int]


class EmbeddingsRequest(BaseModel):
    """The parts of a request that the stand-in minds."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: Annotated[str, Field(min_length=1)]
    input: str | list[str] | Tokens | list[Tokens]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1, le=3072)] | None = None

    @property
    def texts(self) -> list[Tokens]:
        """The tokens of each text."""
        given: Sequence[Any] = self.input if isinstance(self.input, list) else [self.input]
        if given and isinstance(given[0], int):
            given = [given]
        return [encode(one) if isinstance(one, str) else one for one in given]


class Embeddings:
    """Answers with a unit vector that follows from each text, and bills its tokens.

    Args:
        reports: whether the answer says how many they were, as not every vendor's does.
    """

    def __init__(self, bill: Bill, *, reports: bool = True) -> None:
        self._bill = bill
        self._reports = reports

    async def __call__(self, request: Request) -> Response:
        """Serve one request.

        Raises:
            ApiError: the request is refused.
        """
        try:
            wanted = EmbeddingsRequest.model_validate_json(await request.body())
        except ValidationError as error:
            raise from_validation(error) from None
        texts = wanted.texts
        if not 0 < len(texts) <= MOST_INPUTS or not all(texts):
            raise ApiError(400, "'$.input' is invalid.", param="input")
        if any(len(text) > LONGEST_INPUT_TOKENS for text in texts):
            said = f"This model's maximum context length is {LONGEST_INPUT_TOKENS} tokens."
            raise ApiError(400, said, param="input")
        tokens = sum(map(len, texts))
        exchange = exchange_of(request)
        line = Line(
            request_id=exchange.request_id,
            kind="embedding",
            model=wanted.model,
            requested_model=wanted.model,
            headers=exchange.headers,
            amounts=Amounts(prompt_tokens=tokens),
        )
        self._bill.start(line)
        self._bill.close(line, "complete")
        answer: dict[str, Any] = {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": _vector(text, wanted)}
                for index, text in enumerate(texts)
            ],
            "model": wanted.model,
        }
        if self._reports and not hits_of(request).of("no_usage"):
            answer["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse(answer, headers={"x-request-id": line.request_id})


def _vector(text: Tokens, wanted: EmbeddingsRequest) -> list[float] | str:
    size = wanted.dimensions or DIMENSIONS.get(wanted.model, USUAL_DIMENSIONS)
    seed = int.from_bytes(sha256(repr(text).encode()).digest()[:8], "big")
    numbers = np.random.default_rng(seed).standard_normal(size)
    vector = (numbers / np.linalg.norm(numbers)).astype("<f4")
    if wanted.encoding_format == "base64":
        return base64.b64encode(vector.tobytes()).decode()
    return [float(number) for number in vector]
