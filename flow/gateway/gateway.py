"""The gateway: from a request whose key is verified to the last byte of its answer."""

from __future__ import annotations

from collections.abc import Sequence

from flow.domain.gateway.operations import Operation
from flow.domain.gateway.request import GatewayRequest
from flow.domain.products.product import ModelName, Product, Products
from flow.errors import Refused
from flow.gateway.admission import AdmissionRequest, GatewayAdmission
from flow.gateway.attempts import Answered, Attempts
from flow.gateway.client import BodyMemory, ClientWatch, OnLeft, Receive, RequestBody, Send
from flow.gateway.cost_controls import CostControls
from flow.gateway.headers import passed_query
from flow.gateway.job import Accounts, Job
from flow.gateway.plan import Asked, read_request, sending
from flow.gateway.relay import relay
from flow.gateway.upstream import UpstreamClient
from flow.gateway.vendor_models import VendorModels
from flow.metering.taps.answer import DRAIN_SECS

MAX_BODIES_BYTES = 512 * 1024 * 1024
STOPPING_SECS = 5


class Gateway:
    """Serves requests for models. Close it with `aclose` when no request is left.

    Args:
        default_product: the product of requests whose path names none.
        drain: what a vendor sends for a client that has left is read on for at most
            `DRAIN_SECS`, for the vendor's own numbers; otherwise the vendor is hung up on, and
            what it had done is estimated.
    """

    def __init__(
        self,
        products: Products,
        models: VendorModels,
        admission: GatewayAdmission,
        controls: CostControls,
        accounts: Accounts,
        client: UpstreamClient,
        *,
        default_product: str,
        drain: bool = False,
    ) -> None:
        self._products = products
        self._models = models
        self._admission = admission
        self._controls = controls
        self._accounts = accounts
        self._client = client
        self._default_product = default_product
        self._patience_secs = DRAIN_SECS if drain else 0.0
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
        self,
        operation: Operation,
        request: GatewayRequest,
        receive: Receive,
        send: Send,
        on_left: OnLeft,
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
                async with ClientWatch(on_left, self._patience_secs) as watch:
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

    async def _admitted(self, request: GatewayRequest, product: Product, asked: Asked) -> Job:
        operation = asked.operation
        target = self._models.find(asked.model, operation, product)
        first = await sending(asked, target)
        is_priced = product.unpriced == "allow" or self._models.is_priced(
            target, operation, asked.service_tier
        )
        wish = AdmissionRequest(
            key=request.key,
            product=product,
            operation=operation,
            model=target.name,
            estimate=first.estimate,
            most_output=asked.most_output,
            is_priced=is_priced,
        )
        try:
            admitted = await self._admission.admit(wish)
        finally:
            request.note_rates(self._admission.rates(request.key, product))
        try:
            request.note_budget(admitted.budget)
            control = self._controls.control(request, product, admitted.standing)
        except BaseException:
            admitted.closed()
            raise
        return Job(asked, request, product, target, first, control, admitted)

    async def _answered(self, job: Job) -> Answered:
        attempts = Attempts(self._client, passed_query(job.request))
        return await attempts.answer(
            job.sendings(self._models), lambda sending: self._accounts.begin(job, sending)
        )
