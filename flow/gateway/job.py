"""A request that was let in: what is sent for it, to which models, and on whose account."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace

from flow.domain.gateway.request import GatewayRequest
from flow.domain.limits.budget import Tier
from flow.domain.products.product import Product
from flow.domain.usage.events import CostControl, Owner, UsageEvent
from flow.domain.usage.owner_labels import with_attribution
from flow.gateway.admission import Admitted
from flow.gateway.attempts import Attempt
from flow.gateway.cost_controls import saving
from flow.gateway.headers import attributing_headers, ids_of, properties_of, request_headers
from flow.gateway.plan import Asked, Sending, sending
from flow.gateway.upstream import Upstream
from flow.gateway.vendor_models import Target, VendorModels
from flow.metering.evidence import Opening
from flow.metering.meter import Meter, Service
from flow.metering.request import Recording
from flow.metering.taps.answer import MeteredAttempt
from flow.metering.wires.reader import Free

SOURCE = "gateway"

KeepContent = Callable[[UsageEvent, Opening, str], None]
"""Told of a finished event, what was asked for and the text of the answer."""


@dataclass(frozen=True, slots=True)
class Job:
    """One request that was let in.

    Args:
        asked: what its caller sent.
        target: the model that it names.
        first: what that model is sent, unless save mode is on.
        control: what is done about its cost.
    """

    asked: Asked
    request: GatewayRequest
    product: Product
    target: Target
    first: Sending
    control: CostControl
    admitted: Admitted

    @property
    def owner(self) -> Owner:
        """Whose work it is."""
        key, product = self.request.key, self.product
        return Owner(None, key.id, key.team_id, product.name, product.billable)

    def sendings(self, models: VendorModels) -> Iterator[Awaitable[Sending]]:
        """What to send: to the model that was asked for, then to those to fall back to."""
        yield self._sending(self.target)
        for target in models.fallbacks(self.target, self.asked.operation, self.product):
            if self._may_cost(target, models):
                yield self._sending(target)

    async def _sending(self, target: Target) -> Sending:
        saved = await self._saved(target)
        if saved is not None:
            return saved
        if target is self.target:
            return self.first
        return await sending(self.asked, target, meant=self.target)

    def _may_cost(self, target: Target, models: VendorModels) -> bool:
        """Whether a model has a price, where a budget has to hold it."""
        has_budget = self.admitted.standing.tier not in (None, Tier.OVERRIDE)
        needs_price = has_budget and self.product.unpriced == "refuse"
        tier = self.asked.service_tier
        return not needs_price or models.is_priced(target, self.asked.operation, tier)

    async def _saved(self, target: Target) -> Sending | None:
        """What save mode sends to a model; ``None``: it is off, or changes nothing."""
        if not self.control.save_mode:
            return None
        ids = ids_of(self.request)
        saved = saving(self.asked.operation, target, self.product, ids.session_id or ids.trace_id)
        if saved is None:
            return None
        return await sending(self.asked, target, meant=self.target, saved=saved)


class Accounts:
    """Begins the account of each attempt.

    Args:
        keep_content: told of every event of a language model, where content is captured.
    """

    def __init__(self, recorder: Recording, keep_content: KeepContent | None = None) -> None:
        self._recorder = recorder
        self._keep_content = keep_content

    def begin(self, job: Job, sending: Sending) -> Attempt:
        """An attempt that is ready to be sent, and on record from now on."""
        request, upstream = sending.request, sending.target.upstream
        headers = _headers(job, upstream)
        url, exchange = f"{upstream.base_url}{request.path}", sending.exchange()
        if isinstance(exchange, Free):
            return Attempt(upstream, url, headers, request.body)
        if self._keep_content is None:
            exchange.opening = replace(exchange.opening, content=None)
        work = self._meter(job, sending.target).open(exchange.opening, asked_for=sending.asked_for)
        job.admitted.attempted(work.id)
        metered = MeteredAttempt(work, exchange)
        return Attempt(upstream, url, headers, request.body, metered, work.id)

    def _meter(self, job: Job, target: Target) -> Meter:
        # The meter lives as long as the answer, which is not to keep the job and its body.
        upstream, control = target.upstream, job.control
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
            control=lambda: control,
            on_closed=self._keep_content,
            ids=ids_of(job.request),
            properties=properties_of(job.request),
        )


def _headers(job: Job, upstream: Upstream) -> dict[str, str]:
    headers = request_headers(job.request, upstream.apis.headers)
    if upstream.is_gateway:
        headers |= attributing_headers(job.request)
        headers = with_attribution(headers, job.owner, job.control)
    headers["content-type"] = job.asked.content_type
    name, value = upstream.apis.credentials(upstream.api_key)
    headers[name] = value
    return headers
