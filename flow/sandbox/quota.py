"""A stand-in for a company's billing service: it says by URL whether a team may go on.

It speaks the protocol that `flow.vendors.quota_client` describes, at ``/quota``. Teams it was
told nothing about may go on. Over HTTP, ``PUT /_sandbox/quotas/{team_id}`` with the members of
an answer tells it about a team, ``DELETE`` makes it forget, and ``GET /_sandbox/questions``
lists what it was asked.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flow.sandbox.stand_in import OWN_PAGES, StandIn, exchange_of

TOKEN = "sandbox_quota_token"  # noqa: S105 - a stand-in's, and no secret
KEPT_QUESTIONS = 10_000

_PARAMETERS = ("team_id", "api_key_id", "product")
_Amount = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?$")]


class Quota(BaseModel):
    """What a team is told; ``resets_at`` is a time as in RFC 3339."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    limited: bool = False
    resource: str | None = None
    used: _Amount | None = None
    limit: _Amount | None = None
    resets_at: str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """One question that was understood, and the answer; faults come between the two and Flow."""

    request_id: str
    team_id: str
    api_key_id: str
    product: str
    limited: bool


class QuotaSandbox(StandIn):
    """The app; Flow takes its URL with ``/quota`` as the quota source, and ``token`` as its token.

    With ``token=None`` it asks for none.
    """

    def __init__(self, *, token: str | None = TOKEN) -> None:
        self.questions: deque[Question] = deque(maxlen=KEPT_QUESTIONS)
        self._token = token
        self._quotas: dict[str, Quota] = {}
        team = f"{OWN_PAGES}/quotas/{{team_id:path}}"
        super().__init__(
            [
                Route("/quota", self._answer, methods=["GET"]),
                Route(team, self._change, methods=["PUT", "DELETE"]),
                Route(f"{OWN_PAGES}/questions", self._list_questions),
            ],
            _problem,
        )

    def set_quota(self, team_id: str, quota: Quota) -> None:
        """From now on tell the team this."""
        self._quotas[team_id] = quota

    def forget(self, team_id: str) -> None:
        """From now on let the team go on."""
        self._quotas.pop(team_id, None)

    async def _answer(self, request: Request) -> Response:
        request_id = exchange_of(request).request_id
        if not self._is_authorized(request.headers):
            return _problem(401, "The token is missing or wrong.", request_id)
        asked = [request.query_params.getlist(name) for name in _PARAMETERS]
        if not all(len(values) == 1 and values[0] for values in asked):
            return _problem(400, f"Each of {', '.join(_PARAMETERS)} is needed once.", request_id)
        team_id, api_key_id, product = (values[0] for values in asked)
        quota = self._quotas.get(team_id, Quota())
        self.questions.append(Question(request_id, team_id, api_key_id, product, quota.limited))
        return JSONResponse(quota.model_dump())

    def _is_authorized(self, headers: Mapping[str, str]) -> bool:
        if self._token is None:
            return True
        given = headers.get("authorization", "").encode("latin-1")
        return secrets.compare_digest(given, f"Bearer {self._token}".encode())

    async def _change(self, request: Request) -> Response:
        team_id = request.path_params["team_id"]
        if request.method == "DELETE":
            self.forget(team_id)
            return JSONResponse({})
        try:
            quota = Quota.model_validate_json(await request.body())
        except ValidationError as error:
            problems: Any = error.errors(include_url=False, include_context=False)
            return JSONResponse({"problems": problems}, 400)
        self.set_quota(team_id, quota)
        return JSONResponse(quota.model_dump())

    async def _list_questions(self, _request: Request) -> Response:
        return JSONResponse([asdict(question) for question in self.questions])


def _problem(status: int, detail: str, request_id: str) -> Response:
    return JSONResponse({"error": {"detail": detail, "request_id": request_id}}, status)
