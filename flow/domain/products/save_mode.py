"""Save mode: makes a call cheaper, always or once its key's budget runs low."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol

from flow.domain.products.prompt_cache_fields import (
    is_claude,
    openai_cache_options,
    upgrade_breakpoints,
)
from flow.domain.usage.events import CostControl

LEAST_RESPONSE_TOKENS = 16
"""The shortest limit that OpenAI's Responses API takes (its reference, "max_output_tokens")."""

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
) -> CostControl:
    """Whether a call is in save mode now, and why.

    The join decides; where it says nothing the key; else the product. Reasons, stable:

    - ``off_by_join``, ``off_by_key``, ``off_by_product``: nobody wanted it;
    - ``flag_off``, ``flag_unknown``: wanted, but the feature is not switched on;
    - ``on_by_join``, ``on_by_key``, ``on_by_product``: always on;
    - ``budget_engage``, ``budget_exceeded``: on, because so much of the budget is spent;
    - ``budget_ok``, ``budget_warn``, ``budget_override``, ``budget_unknown``, ``no_budget``: off,
      because it is not.

    Args:
        tier: the budget's, a `flow.domain.limits.budget.Tier`; ``None`` without a budget, which is
            on record as ``ok``.
        enabled: the feature flag for the key; ``None``: not known, which is off.
        forced: takes the flag's place, where it is given.
    """
    mode, by = _wanted(join, key, product)
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
    """The chat request that save mode sends in place of ``request``, which stays as it is.

    A cheaper model, a reply no longer than ``saving.max_tokens``, the instruction, and a prompt
    that stays in the vendor's cache for longer, each where ``saving`` has it. What was asked for
    already is kept: a shorter reply, and every cache setting. The other parameters pass as they
    are, so a cheaper model has to be one that takes them.

    Args:
        request: the body of a request to ``/chat/completions`` or ``/responses``, or for the
            provider ``anthropic`` to ``/v1/messages``; fields that are ``None`` count as left out.
        cache_key: what requests with the same prompt have in common: the call's thread.
    """
    saved = dict(request)
    model = str(request["model"])
    if cheaper := saving.cheaper(provider, model):
        saved["model"] = model = cheaper
    if saving.max_tokens is not None:
        saved |= _reply_limit(request, saving.max_tokens, provider)
    if saving.instruction and saving.instruction.strip():
        if provider == "anthropic":
            saved["system"] = _instructed_system(request.get("system"), saving.instruction)
        elif _is_response(request):
            saved["input"] = _instructed_input(request["input"], saving.instruction)
        else:
            saved["messages"] = _instructed(request["messages"], saving.instruction)
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


def _reply_limit(request: Mapping[str, Any], most: int, provider: str) -> dict[str, int]:
    """The limit in the field that the request uses, and never above what is in it.

    Where it uses none: OpenAI's newest models take ``max_completion_tokens`` alone, and not every
    vendor that speaks its protocol takes that (DeepSeek does not).
    """
    if _is_response(request):
        asked = request.get("max_output_tokens")
        limit = most if asked is None else min(asked, most)
        return {"max_output_tokens": max(limit, LEAST_RESPONSE_TOKENS)}
    names = ("max_completion_tokens", "max_tokens")
    used = [name for name in names if request.get(name) is not None]
    if used:
        return {name: min(request[name], most) for name in used}
    return {names[0] if provider in ("openai", "azure") else names[1]: most}


def _instructed(messages: Sequence[Any], instruction: str) -> list[Any]:
    """The messages with the instruction after them, once.

    After them, so that a cached prompt stays the same up to it. It speaks with the voice that
    the prompt speaks with, since OpenAI wants system or developer messages and not both: Pipecat
    puts a system message first.
    """
    roles = {m.get("role") for m in messages if isinstance(m, Mapping)}
    role = "developer" if "developer" in roles and "system" not in roles else "system"
    told = {"role": role, "content": instruction}
    if told in messages:
        return list(messages)
    place = _end_of_turns(messages)
    return [*messages[:place], told, *messages[place:]]


def _instructed_system(system: Any, instruction: str) -> list[Any]:
    """Anthropic's system prompt with the instruction after it, once: a block of its own, so that
    what is cached stays the same up to it. Not all of its models take system messages."""
    told = {"type": "text", "text": instruction}
    if isinstance(system, str):
        system = [{"type": "text", "text": system}] if system else []
    blocks = list(system) if isinstance(system, list) else []
    return blocks if told in blocks else [*blocks, told]


def _is_response(request: Mapping[str, Any]) -> bool:
    """Whether it is a request to OpenAI's Responses API."""
    return "input" in request and "messages" not in request


def _instructed_input(given: Any, instruction: str) -> list[Any]:
    """The input of a response with the instruction after it, once."""
    told = {"role": "developer", "content": instruction}
    items = [{"role": "user", "content": given}] if isinstance(given, str) else list(given)
    return items if told in items else [*items, told]


def _end_of_turns(messages: Sequence[Any]) -> int:
    """Where a message may be added last: nothing may stand between a tool call and its result."""
    answered: set[Any] = set()
    for place, message in reversed(list(enumerate(messages))):
        given = message if isinstance(message, Mapping) else {}
        if given.get("role") == "tool":
            answered.add(given.get("tool_call_id"))
            continue
        calls = given.get("tool_calls")
        asked = {call.get("id") for call in calls} if isinstance(calls, list) else set()
        return len(messages) if asked <= answered else place
    return len(messages)
