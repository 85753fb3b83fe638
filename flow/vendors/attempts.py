"""A transport that names the owner of each request and reports each attempt that failed.

The OpenAI SDK repeats a request on 429, 5xx, timeouts and broken connections without a word.
Each of those attempts is vendor work, so each is reported, from the one place that sees it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from time import perf_counter
from uuid import UUID

import httpx2
import structlog

from flow.domain.attribution import with_attribution
from flow.domain.usage import Owner

log = structlog.get_logger(__name__)

OnAttemptFailed = Callable[[int | None, str, float], None]
"""Called with the HTTP status (``None`` when there was no answer), the kind of error, and the
seconds the attempt took. It runs on the event loop between two network calls: keep it short."""

OnAnswered = Callable[[], None]
"""Called when an attempt is answered with a status below 400, before the answer's body is read."""

_NAMES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    409: "ConflictError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
}


def error_name(status: int) -> str:
    """What the OpenAI SDK calls an answer with this status (``openai._exceptions``)."""
    return _NAMES.get(status, "InternalServerError" if status >= 500 else "APIStatusError")


class AttributedTransport(httpx2.AsyncBaseTransport):
    """One owner's way through the connection pool that all share.

    Every request to ``origin`` carries ``owner``'s attribution and no other; a request to
    anywhere else (a redirect) carries none, nor does any when ``owner`` is ``None``.

    ``on_attempt_failed`` hears of each failed attempt exactly once, the last one too: an answer
    with status 400 or above, no answer, or an answer that broke off. Two things are not
    reported, because whoever reads them must account for them: an event stream that breaks
    off after it began, and a request that the caller cancelled.

    ``on_answered`` hears of every other answer as it begins, so that one which nobody can make
    sense of is known to have been served.

    ``thread_id`` is in the log lines, whether or not the owner is told to anybody.
    """

    def __init__(
        self,
        pool: httpx2.AsyncClient,
        origin: httpx2.URL,
        owner: Owner | None,
        on_attempt_failed: OnAttemptFailed | None = None,
        thread_id: UUID | None = None,
        on_answered: OnAnswered | None = None,
    ) -> None:
        self._on_answered = on_answered
        self._log = log if thread_id is None else log.bind(workflow_thread_id=str(thread_id))
        self._pool = pool
        self._origin = _origin(origin)
        self._owner = owner
        self._on_failed = on_attempt_failed

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one attempt and watch how it ends."""
        self._attribute(request)
        started = perf_counter()
        try:
            if self._pool.is_closed:
                raise httpx2.ConnectError("The connection pool is closed.", request=request)
            # Redirects, netrc and cookies are the business of the client in front of us.
            answer = await self._pool.send(request, stream=True, auth=None, follow_redirects=False)
        except Exception as error:
            self._failed(None, type(error).__name__, started)
            raise
        if answer.status_code >= 400:
            self._failed(answer.status_code, error_name(answer.status_code), started)
        elif self._on_answered is not None:
            self._on_answered()
        return httpx2.Response(
            answer.status_code,
            headers=answer.headers,
            stream=_Body(answer, None if _is_accounted(answer) else self._watch(answer, started)),
            extensions=answer.extensions,
        )

    async def aclose(self) -> None:
        """Nothing: the pool belongs to the process, not to one client."""

    def _attribute(self, request: httpx2.Request) -> None:
        owner = self._owner if _origin(request.url) == self._origin else None
        request.headers = httpx2.Headers(with_attribution(request.headers, owner))

    def _watch(self, answer: httpx2.Response, started: float) -> Callable[[Exception], None]:
        def broke_off(error: Exception) -> None:
            self._failed(answer.status_code, type(error).__name__, started)

        return broke_off

    def _failed(self, status: int | None, error_type: str, started: float) -> None:
        if self._on_failed is None:
            return
        try:
            self._on_failed(status, error_type, perf_counter() - started)
        except Exception:
            self._log.exception("attempt_report_failed", status=status, error_type=error_type)


class _Body(httpx2.AsyncByteStream):
    """The body as it came, with a word to ``broke_off`` if it does not come to its end."""

    def __init__(
        self, answer: httpx2.Response, broke_off: Callable[[Exception], None] | None
    ) -> None:
        assert isinstance(answer.stream, httpx2.AsyncByteStream)
        self._answer = answer
        self._parts = answer.stream
        self._broke_off = broke_off

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._parts:
                yield part
        except Exception as error:
            if self._broke_off is not None:
                self._broke_off(error)
            raise

    async def aclose(self) -> None:
        await self._answer.aclose()


def _is_accounted(answer: httpx2.Response) -> bool:
    """Whether a break in the body is somebody else's to report: a status that was reported
    already, or an event stream, whose reader knows what it got out of it."""
    media = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    return answer.status_code >= 400 or media == "text/event-stream"


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    return url.scheme, url.host, port
