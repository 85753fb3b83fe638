"""Prompt caching at vendors: the request fields that keep a prompt cached for longer.

A prompt that is still cached is read at a fraction of its price. A value that the vendor does not
know for a model fails the whole request, so what is not documented for a model is not sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any

MAX_CACHE_KEY_CHARS = 64

_HOUR = "1h"
_BEDROCK = re.compile(r"anthropic\.claude|bedrock|^arn:")
_MARKED = ("tools", "system", "messages")
_NESTS_BLOCKS = ("function", "source", "content")
# A tool's result may hold a document that holds blocks; what is deeper is nobody's protocol.
_DEEPEST = 12

# Not in it: the mini and nano models (gpt-5.1-codex-mini too, though the guide lists it), which
# refuse the field.
_KEPT_FOR_A_DAY = frozenset(
    {
        "gpt-4.1", "gpt-5", "gpt-5-codex", "gpt-5.1", "gpt-5.1-chat-latest", "gpt-5.1-codex",
        "gpt-5.1-codex-max", "gpt-5.2", "gpt-5.4", "gpt-5.5", "gpt-5.5-pro",
    }
)  # fmt: skip
_DATED = re.compile(r"-\d{4}-\d{2}-\d{2}$")
# One digit before the point: gpt-35-turbo is an old model, by another vendor's name for it.
_GPT = re.compile(r"gpt-(\d)(?:\.(\d+))?(?:-|$)")
_FIRST_WITH_OPTIONS = (5, 6)


def is_claude(model: str) -> bool:
    """Whether a model is Anthropic's, by whatever name a vendor or a gateway gives it."""
    return "claude" in model.lower()


def upgrade_breakpoints(request: Mapping[str, Any], model: str) -> dict[str, Any]:
    """A copy of a request whose cache breakpoints last an hour in place of five minutes.

    ``request`` is in Anthropic's own form, or in OpenAI's with Anthropic's ``cache_control`` in
    it, as OpenRouter takes it. Only breakpoints that are there, ``{"type": "ephemeral"}`` without
    a ``ttl``, become ``"ttl": "1h"``; none is added, and an explicit ``ttl`` stays. Nothing
    changes at all

    - where a breakpoint with a shorter explicit ``ttl`` comes before one to be upgraded: Anthropic
      refuses an hour after five minutes, in the order tools, system, messages;
    - where the request's own ``cache_control`` has a shorter explicit ``ttl``: it marks the last
      block, and Anthropic refuses two lifetimes on one block;
    - for a model that is not Claude, and for Bedrock's ids: there not every Claude knows an hour.

    The rules are those of Anthropic's guide to prompt caching.
    """
    if not is_claude(model) or _BEDROCK.search(model.lower()) or not _may_upgrade(request):
        return dict(request)
    marked = {name: _upgraded(request[name]) for name in _MARKED if name in request}
    return {**request, **marked, **_upgraded_own(request)}


def openai_cache_options(model: str, cache_key: str) -> dict[str, Any]:
    """What to add to a chat request to OpenAI itself so that its prompt is found in the cache.

    ``prompt_cache_key`` for every model: with a hash of the prompt's start it chooses the machine
    that serves a request. ``cache_key`` is best the call's thread: what a call's turns share is
    the whole conversation so far, and OpenAI spreads what exceeds some 15 requests a minute with
    one key and start over other machines, which a key for all of a customer's calls would. Longer
    than the 64 characters OpenAI takes, it is replaced by its digest; blank, it is left out.

    ``prompt_cache_retention: "24h"`` for the models that OpenAI's guide to prompt caching lists
    for it; the parameter's documentation (``openai/types/chat/completion_create_params.py``)
    calls it a maximum, and the default already except for organisations without data retention,
    which should leave save mode's prompt cache off. From gpt-5.6 on ``prompt_cache_options`` takes
    its place, whose one value of ``ttl``, a minimum, is ``"30m"``. A model that is not known gets
    the key alone.
    """
    options: dict[str, Any] = {}
    if cache_key.strip():
        fits = len(cache_key) <= MAX_CACHE_KEY_CHARS
        options["prompt_cache_key"] = cache_key if fits else sha256(cache_key.encode()).hexdigest()
    name = model.lower()
    if _DATED.sub("", name) in _KEPT_FOR_A_DAY:
        options["prompt_cache_retention"] = "24h"
    elif (gpt := _GPT.match(name)) and (int(gpt[1]), int(gpt[2] or 0)) >= _FIRST_WITH_OPTIONS:
        options["prompt_cache_options"] = {"ttl": "30m"}
    return options


def _may_upgrade(request: Mapping[str, Any]) -> bool:
    """Whether there is something to upgrade, and no order of the blocks forbids it."""
    on_blocks, on_request = list(_on_blocks(request)), list(_own(request))
    if any(_is_shorter(breakpoint_) for breakpoint_ in on_request):
        return False
    # Whoever translates OpenAI's form may put a late system message first, or leave it there.
    orders = (on_blocks, list(_on_blocks(request, system_first=True)))
    found = (*on_blocks, *on_request)
    return any(map(_is_plain, found)) and not any(
        _shorter_comes_first((*order, *on_request)) for order in orders
    )


def _shorter_comes_first(order: Iterable[Mapping[str, Any]]) -> bool:
    is_shorter_seen = False
    for breakpoint_ in order:
        if is_shorter_seen and _is_plain(breakpoint_):
            return True
        is_shorter_seen = is_shorter_seen or _is_shorter(breakpoint_)
    return False


def _is_plain(breakpoint_: Mapping[str, Any]) -> bool:
    return breakpoint_.get("ttl") is None


def _is_shorter(breakpoint_: Mapping[str, Any]) -> bool:
    return breakpoint_.get("ttl") not in (None, _HOUR)


def _on_blocks(
    request: Mapping[str, Any], *, system_first: bool = False
) -> Iterator[Mapping[str, Any]]:
    """The breakpoints on a request's blocks, in the order in which Anthropic reads them."""
    yield from _within(request.get("tools"))
    yield from _within(request.get("system"))
    messages = request.get("messages")
    if system_first and isinstance(messages, list | tuple):
        messages = sorted(messages, key=lambda message: not _is_system(message))
    yield from _within(messages)


def _within(node: Any, deepest: int = _DEEPEST) -> Iterator[Mapping[str, Any]]:
    """The breakpoints on a block and on what is nested in it, which ends before the block does.

    Only where the protocols put blocks: the arguments of a tool or the schema of one may have a
    ``cache_control`` that is none.
    """
    if not deepest:
        return
    if isinstance(node, list | tuple):
        for item in node:
            yield from _within(item, deepest - 1)
    elif isinstance(node, Mapping):
        for place in _NESTS_BLOCKS:
            yield from _within(node.get(place), deepest - 1)
        yield from _own(node)


def _upgraded(node: Any, deepest: int = _DEEPEST) -> Any:
    """A copy of a block with the breakpoints that `_within` finds lasting an hour."""
    if not deepest:
        return node
    if isinstance(node, list | tuple):
        return [_upgraded(item, deepest - 1) for item in node]
    if not isinstance(node, Mapping):
        return node
    nested = {p: _upgraded(node[p], deepest - 1) for p in _NESTS_BLOCKS if p in node}
    return {**node, **nested, **_upgraded_own(node)}


def _upgraded_own(node: Mapping[str, Any]) -> dict[str, Any]:
    plain = next(filter(_is_plain, _own(node)), None)
    return {} if plain is None else {"cache_control": {**plain, "ttl": _HOUR}}


def _own(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    control = node.get("cache_control")
    if isinstance(control, Mapping) and control.get("type") == "ephemeral":
        yield control


def _is_system(message: Any) -> bool:
    return isinstance(message, Mapping) and message.get("role") in ("system", "developer")
