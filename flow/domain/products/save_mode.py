"""Save mode: makes a call cheaper, always or once its key's budget runs low."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Protocol

from flow.domain.products.prompt_cache_fields import (
    is_claude,
    openai_cache_options,
    upgrade_breakpoints,
)
from flow.domain.products.request_forms import form_of
from flow.domain.usage.events import CostControl

_ENGAGING = ("engage", "exceeded")


class SaveMode(StrEnum):
    """Never, from the budget's ``engage`` tier on, or always."""

    OFF = "off"
    AUTO = "auto"
    ON = "on"


class SavingLike(Protocol):
    """What a product does to save."""

    @property
    def max_tokens(self) -> int | None:
        """The longest reply, in tokens; ``None``: as long as asked for."""

    @property
    def instruction(self) -> str | None:
        """What the model is told in addition."""

    @property
    def prompt_cache(self) -> bool:
        """Whether prompts are kept in the vendor's cache for longer."""

    def cheaper(self, provider: str, model: str) -> str | None:
        """The model that takes this one's place; ``None``: it stays."""


def decide(
    *,
    join: SaveMode | None,
    key: SaveMode | None,
    product: SaveMode,
    tier: str | None,
    enabled: bool | None,
    forced: bool | None = None,
    asked_by: str = "join",
) -> CostControl:
    """Whether a call is in save mode now, and why.

    The join decides; where it says nothing the key; else the product. Reasons, stable:

    - ``off_by_join``, ``off_by_key``, ``off_by_product``: nobody wanted it;
    - ``flag_off``, ``flag_unknown``: wanted, but the feature is not switched on;
    - ``on_by_join``, ``on_by_key``, ``on_by_product``: always on; for a request to the gateway
      ``header`` stands in the place of ``join``;
    - ``budget_engage``, ``budget_exceeded``: on, because so much of the budget is spent;
    - ``budget_ok``, ``budget_warn``, ``budget_override``, ``budget_unknown``, ``no_budget``: off,
      because it is not.

    Args:
        tier: the budget's, a `flow.domain.limits.budget.Tier`; ``None`` without a budget, which is
            on record as ``ok``.
        asked_by: what ``join`` is, where it is no join's.
        enabled: the feature flag for the key; ``None``: not known, which is off.
        forced: takes the flag's place, where it is given.
    """
    mode, by = _wanted(join, key, product)
    by = asked_by if by == "join" else by
    flag = enabled if forced is None else forced
    if mode is SaveMode.OFF:
        is_on, reason = False, f"off_by_{by}"
    elif not flag:
        is_on, reason = False, "flag_unknown" if flag is None else "flag_off"
    elif mode is SaveMode.ON:
        is_on, reason = True, f"on_by_{by}"
    else:
        is_on, reason = tier in _ENGAGING, "no_budget" if tier is None else f"budget_{tier}"
    return CostControl(is_on, reason, "ok" if tier is None else str(tier))


def saving_request(
    request: Mapping[str, Any], *, provider: str, saving: SavingLike, cache_key: str
) -> dict[str, Any]:
    """The request that save mode sends in place of ``request``, which stays as it is.

    A cheaper model, a reply no longer than ``saving.max_tokens``, the instruction, and a prompt
    that stays in the vendor's cache for longer, each where ``saving`` has it. What was asked for
    already is kept: a shorter reply, and every cache setting. The other parameters pass as they
    are, so a cheaper model has to be one that takes them.

    Args:
        request: the body of a request to ``/chat/completions`` or ``/responses``, for the provider
            ``anthropic`` to ``/v1/messages``, or to Gemini's ``generateContent``, with its model
            among the fields; fields that are ``None`` count as left out.
        cache_key: what requests with the same prompt have in common: the call's thread.
    """
    saved = dict(request)
    model = str(request["model"])
    if cheaper := saving.cheaper(provider, model):
        saved["model"] = model = cheaper
    form = form_of(request, provider)
    if saving.max_tokens is not None:
        saved |= form.limit(saved, saving.max_tokens, provider)
    if saving.instruction and saving.instruction.strip():
        saved |= form.instruct(saved, saving.instruction)
    if not saving.prompt_cache:
        return saved
    if provider == "openai" and not is_claude(model):
        options = openai_cache_options(model, cache_key)
        return saved | {k: v for k, v in options.items() if saved.get(k) is None}
    return upgrade_breakpoints(saved, model)


def _wanted(join: SaveMode | None, key: SaveMode | None, product: SaveMode) -> tuple[SaveMode, str]:
    if join is not None:
        return join, "join"
    if key is not None:
        return key, "key"
    return product, "product"
