"""The gateway: from a request whose key is verified to the last byte of its answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from flow.domain.gateway.operations import Operation
from flow.domain.gateway.request import GatewayRequest
from flow.domain.products.product import ModelName, Product, Products
from flow.domain.usage.events import CostControl, Owner, RequestIds, UsageEvent
from flow.domain.usage.owner_labels import with_attribution
from flow.errors import Refused
from flow.gateway.admission import AdmissionRequest, Admitted, GatewayAdmission
from flow.gateway.attempts import Answered, Attempt, Attempts
from flow.gateway.client import BodyMemory, ClientWatch, Receive, RequestBody, Send
from flow.gateway.cost_controls import CostControls, saving
from flow.gateway.headers import attributing_headers, ids_of, properties_of, request_headers
from flow.gateway.plan import Asked, Sending, read_request, sending
from flow.gateway.relay import relay
from flow.gateway.upstream import Upstream, UpstreamClient
from flow.gateway.vendor_models import Target, VendorModels
from flow.metering.evidence import Opening
from flow.metering.meter import Meter, Service
from flow.metering.request import Recording
from flow.metering.taps.answer import DRAIN_SECS, MeteredAttempt
from flow.metering.wires.reader import Free

SOURCE = "gateway"
MAX_BODIES_BYTES = 512 * 1024 * 1024
STOPPING_SECS = 5

KeepContent = Callable[[UsageEvent, Opening, str], None]


@dataclass(frozen=True, slots=True)
class _Job:
    """One request that was let in."""

    asked: Asked
    request: GatewayRequest
    product: Product
    target: Target
    first: Sending
    control: CostControl
    admitted: Admitted
    ids: RequestIds

    @property
    def owner(self) -> Owner:
        """Whose work it is."""
        key, product = self.request.key, self.product
        return Owner(None, key.id, key.team_id, product.name, product.billable)


class Gateway:
    """Serves requests for models. Close it with `aclose` when no request is left.

    Args:
        default_product: the product of requests whose path names none.
        drain: what a vendor sends for a client that has left is read on for at most
            `DRAIN_SECS`, for the vendor's own numbers; otherwise the vendor is hung up on, and
            what it had done is estimated.
        keep_content: told of every event of a language model, where content is captured.
    """

    def __init__(
        self,
        products: Products,
        models: VendorModels,
        admission: GatewayAdmission,
        controls: CostControls,
        recorder: Recording,
        client: UpstreamClient,
        *,
        default_product: str,
        drain: bool = False,
        keep_content: KeepContent | None = None,
    ) -> None:
        self._products = products
        self._models = models
        self._admission = admission
        self._controls = controls
        self._recorder = recorder
        self._client = client
        self._default_product = default_product
        self._patience_secs = DRAIN_SECS if drain else 0.0
        self._keep_content = keep_content
        self._memory = BodyMemory(MAX_BODIES_BYTES)
        self._is_stopping = False

    def stop(self) -> None:
        """Take no more requests: the process is about to end."""
        self._is_stopping = True

    async def aclose(self) -> None:
        """Close the connections to vendors."""
        await self._client.aclose()

    def listed(self, request: GatewayRequest) -> Sequence[ModelName]:
        """The models of a request's product.

        Raises:
            Refused: ``unknown_product`` or ``insufficient_permissions``.
        """
        return self._models.listed(self._product(request))

    async def serve(
        self, operation: Operation, request: GatewayRequest, receive: Receive, send: Send
    ) -> None:
        """Answer a request.

        Raises:
            Refused: it may not be made, or its model may not be used.
            InvalidInput: it is not one that can be served.
            Unavailable: nobody can say whether it may be made, or no vendor has answered.
            ClientDisconnect: its body never came.
        """
        if self._is_stopping:
            raise Refused(
                "shutting_down", "This server is being shut down: try again.", STOPPING_SECS
            )
        product = self._product(request)
        body = RequestBody(self._memory)
        try:
            asked = await read_request(operation, request, await body.read(receive))
            job = await self._admitted(request, product, asked)
            del asked
            admitted = job.admitted
            try:
                watch = ClientWatch(receive, self._patience_secs)
                async with watch.leaving():
                    answered = await self._answered(job)
                    # With its body, which a long answer need not keep.
                    del job
                    body.release()
                    await relay(answered, watch, send)
            finally:
                admitted.closed()
        finally:
            body.release()

    def _product(self, request: GatewayRequest) -> Product:
        product = self._products.for_gateway(request.product or self._default_product)
        needed = product.permission
        if needed is not None and needed not in request.permissions:
            raise Refused(
                "insufficient_permissions", f"This needs a key with the permission {needed!r}."
            )
        return product

    async def _admitted(self, request: GatewayRequest, product: Product, asked: Asked) -> _Job:
        operation = asked.operation
        target = self._models.find(asked.model, operation, product)
        first = await sending(asked, target)
        is_priced = product.unpriced == "allow" or self._models.is_priced(target, operation)
        admitted = await self._admission.admit(
            AdmissionRequest(
                key=request.key,
                product=product,
                operation=operation,
                model=target.name,
                estimate=first.estimate,
                most_output=asked.most_output,
                is_priced=is_priced,
            )
        )
        try:
            request.note_budget(admitted.budget)
            control = self._controls.control(request, product, admitted.standing)
        except BaseException:
            admitted.closed()
            raise
        return _Job(asked, request, product, target, first, control, admitted, ids_of(request))

    async def _answered(self, job: _Job) -> Answered:
        attempts = Attempts(self._client, job.request.query.decode("latin-1"))
        async with aclosing(self._sendings(job)) as sendings:
            return await attempts.answer(sendings, lambda sending: self._begin(job, sending))

    async def _sendings(self, job: _Job) -> AsyncGenerator[Sending]:
        """What to send, to one model after the other."""
        yield await self._saved(job, job.target) or job.first
        for target in self._models.fallbacks(job.target, job.asked.operation, job.product):
            yield await self._saved(job, target) or await sending(
                job.asked, target, meant=job.target
            )

    async def _saved(self, job: _Job, target: Target) -> Sending | None:
        """The same in save mode; ``None``: that is off, or changes nothing."""
        if not job.control.save_mode:
            return None
        ids = job.ids
        saved = saving(job.asked.operation, target, job.product, ids.session_id or ids.trace_id)
        if saved is None:
            return None
        return await sending(job.asked, target, meant=job.target, saved=saved)

    def _begin(self, job: _Job, sending: Sending) -> Attempt:
        """Begin the account of an attempt."""
        request, upstream = sending.request, sending.target.upstream
        headers = self._headers(job, upstream)
        url, exchange = f"{upstream.base_url}{request.path}", sending.exchange()
        if isinstance(exchange, Free):
            return Attempt(upstream, url, headers, request.body)
        if self._keep_content is None:
            exchange.opening = replace(exchange.opening, content=None)
        work = self._meter(job, sending.target).open(exchange.opening, asked_for=sending.asked_for)
        job.admitted.attempted(work.id)
        metered = MeteredAttempt(work, exchange)
        return Attempt(upstream, url, headers, request.body, metered, work.id)

    def _meter(self, job: _Job, target: Target) -> Meter:
        upstream = target.upstream
        return Meter(
            Service(
                job.asked.operation.kind,
                upstream.name,
                target.model,
                source=SOURCE,
                capture=not upstream.captures,
            ),
            job.owner,
            self._recorder,
            control=lambda: job.control,
            on_closed=self._keep_content,
            ids=job.ids,
            properties=properties_of(job.request),
        )

    def _headers(self, job: _Job, upstream: Upstream) -> dict[str, str]:
        headers = request_headers(job.request, upstream.apis.headers)
        if upstream.is_gateway:
            headers |= attributing_headers(job.request)
            headers = with_attribution(headers, job.owner, job.control)
        name, value = upstream.apis.credentials(upstream.api_key)
        headers[name] = value
        return headers
