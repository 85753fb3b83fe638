"""From what vendors report to disjoint token quantities.

Vendors count in different ways, and Pipecat passes on what they say. What Pipecat 1.14 puts
into ``LLMTokenUsage``, read in its services:

=====================================  ==========  ===============================  ===========
service (``pipecat/services/...``)     prompt is   reasoning in ``completion``      counting
=====================================  ==========  ===============================  ===========
``openai/base_llm.py`` and all that    gross       yes, as OpenAI reports it; cache  `GROSS`
build on it (Groq, DeepSeek, Mistral,              writes from ``cache_write_tokens``
Cerebras, OpenRouter, Together, ...)
``openai/responses/llm.py``            gross       yes; an absent total is 0        `GROSS`
``openai/realtime/llm.py``             gross       not told; audio told apart       `GROSS`
``perplexity/llm.py``                  gross       yes; own name for cache writes   `GROSS`
``sambanova/llm.py``                   gross       yes                              `GROSS`
``xai/llm.py``                         gross       added by Pipecat where the total `GROSS`
                                                   shows that it was left out
``xai/realtime``, ``inworld``,         gross       not told, nor the cache          `GROSS`
``azure/voice_live``
``google/llm.py``                      gross       thoughts added by Pipecat;       `GEMINI`
                                                   total computed by it
``google/gemini_live/llm.py``          gross       the same; audio told apart       `GEMINI`
``anthropic/llm.py``                   **net**     yes; total is gross              `NET`
``aws/llm.py`` (Bedrock)               **net**     not told; total is gross         `NET`
``aws/nova_sonic/llm.py``              no cache    not told                         `NET`
=====================================  ==========  ===============================  ===========

*Gross* means that the cached tokens are inside the prompt, *net* that they come beside it.

Not every OpenAI-compatible server follows OpenAI where Flow talks to it directly:

* xAI leaves reasoning out of ``completion_tokens`` but not out of ``total_tokens`` (xAI docs,
  "Consumption and rate limits"); so do proxies in front of Gemini. Where total = prompt +
  completion + reasoning, reasoning is added to the completion.
* Gemini's own OpenAI endpoint leaves thoughts out of ``completion_tokens`` and may not tell
  them at all; the total has them (any-llm #1290). For `GEMINI` the rest of the total is output.
* DeepSeek says ``prompt_cache_hit_tokens`` at the top level (DeepSeek docs, "Context caching"),
  Moonshot ``cached_tokens``; Perplexity ``cache_creation_input_tokens`` among the details, and
  LiteLLM's proxy at the top level (``litellm/types/utils.py``, ``Usage``), with Anthropic's two
  lifetimes apart in ``cache_creation_token_details``.
* A total that is prompt + completion + cache says that the cache lies beside the prompt, whoever
  the vendor is: it is believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from operator import attrgetter
from typing import Any

from flow.domain.usage.events import Quantities
from flow.errors import ContradictoryUsage


class Counting(Enum):
    """How a vendor counts: the cache inside the prompt (gross), so with thoughts beside the
    completion (Gemini), or the cache beside the prompt (net)."""

    GROSS = "gross"
    GEMINI = "gemini"
    NET = "net"


@dataclass(frozen=True, slots=True)
class ReportedTokens:
    """Token counts under the names of Pipecat and OpenAI, as the vendor meant them.

    ``None`` is what the vendor did not tell. ``input_audio_tokens`` includes cached audio.
    """

    prompt_tokens: int | None
    completion_tokens: int | None
    total_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    input_audio_tokens: int | None = None
    output_audio_tokens: int | None = None
    cache_read_audio_tokens: int | None = None
    cache_write_1h_tokens: int | None = None


MOST = 10**9
"""More tokens than one piece of work can have; the ledger takes no more than 2**31 of a unit."""

_all_counts = attrgetter(*ReportedTokens.__slots__)

_NET = ("anthropic", "aws", "bedrock", "amazon")
_GEMINI = ("google", "gemini", "vertex")


def counting_of(provider: str) -> Counting:
    """How ``provider`` counts; one that is not known is taken to be OpenAI-compatible."""
    name = "".join(c for c in provider.lower() if c.isalnum())
    if name.startswith(_NET):
        return Counting.NET
    return Counting.GEMINI if name.startswith(_GEMINI) else Counting.GROSS


def normalise(reported: ReportedTokens, counting: Counting) -> Quantities:
    """Disjoint quantities that add up to what the vendor reported.

    Raises:
        ContradictoryUsage: the report contradicts itself or lacks what it is about; the
            message holds the numbers. `certain` then gives what can be kept.
    """
    _refuse_impossible(reported)
    read, write = reported.cache_read_tokens or 0, reported.cache_write_tokens or 0
    if counting is not Counting.NET and _says_net(reported, read + write):
        counting = Counting.NET
    beside = read + write if counting is Counting.NET else 0
    prompt, completion = _both(reported, beside)
    reasoning = reported.reasoning_tokens or 0
    output = completion + _left_out(reported, counting, prompt, completion, beside)
    if output > completion and not reasoning:
        reasoning = output - completion
    if reasoning > output:
        raise ContradictoryUsage(
            f"reasoning tokens ({reasoning}) are more than completion tokens ({output})"
        )
    if counting is not Counting.NET and read + write > prompt:
        raise ContradictoryUsage(
            f"cached tokens ({read} read, {write} written) are more than prompt tokens ({prompt})"
        )
    uncached = prompt if counting is Counting.NET else prompt - read - write
    heard, cached_audio = _audio(reported, uncached, read, write)
    for_an_hour = reported.cache_write_1h_tokens or 0
    if for_an_hour > write:
        raise ContradictoryUsage(
            f"tokens written to the cache for an hour ({for_an_hour}) are more than all that were"
            f" written ({write})"
        )
    return Quantities(
        input_tokens=uncached,
        cache_read_tokens=read,
        cache_write_tokens=write,
        output_tokens=output,
        reasoning_tokens=reasoning,
        input_audio_tokens=heard,
        output_audio_tokens=reported.output_audio_tokens or 0,
        cache_read_audio_tokens=cached_audio,
        cache_write_1h_tokens=for_an_hour,
    )


def certain(reported: ReportedTokens, counting: Counting) -> Quantities:
    """What can be kept of a report, contradictory or not; never raises.

    Prompt and completion are kept as they are; what is said to be a part of one of them is cut
    to what fits into it; a number that cannot be counts as nothing. A report that `normalise`
    accepts gives the same here.
    """
    try:
        return normalise(reported, counting)
    except ContradictoryUsage:
        pass
    prompt, output = _possible(reported.prompt_tokens), _possible(reported.completion_tokens)
    if _says_net(reported, (reported.cache_read_tokens or 0) + (reported.cache_write_tokens or 0)):
        counting = Counting.NET
    read, write = _possible(reported.cache_read_tokens), _possible(reported.cache_write_tokens)
    uncached = prompt
    if counting is not Counting.NET:
        read = min(read, prompt)
        write = min(write, prompt - read)
        uncached = prompt - read - write
    cached_audio = min(_possible(reported.cache_read_audio_tokens), read)
    heard = _possible(reported.input_audio_tokens) - cached_audio
    return Quantities(
        input_tokens=uncached,
        cache_read_tokens=read,
        cache_write_tokens=write,
        output_tokens=output,
        reasoning_tokens=min(_possible(reported.reasoning_tokens), output),
        input_audio_tokens=min(_possible(heard), uncached),
        output_audio_tokens=min(_possible(reported.output_audio_tokens), output),
        cache_read_audio_tokens=cached_audio,
        cache_write_1h_tokens=min(_possible(reported.cache_write_1h_tokens), write),
    )


def accepted(reported: ReportedTokens, counting: Counting) -> tuple[Quantities, str | None]:
    """What to record of a vendor's report, and how it contradicts itself, if it does."""
    try:
        return normalise(reported, counting), None
    except ContradictoryUsage as error:
        return certain(reported, counting), str(error)


def from_openai_usage(usage: Mapping[str, Any] | object) -> ReportedTokens:
    """Read an OpenAI ``usage``, of any of its APIs, object or JSON.

    Tolerant of missing and null fields and details, of additional ones, and of what
    compatible servers do; never raises. What is no whole number counts as not told.
    """
    prompt_details = _detail(
        usage, "prompt_tokens_details", "input_tokens_details", "input_token_details"
    )
    output_details = _detail(
        usage, "completion_tokens_details", "output_tokens_details", "output_token_details"
    )
    read = _count(prompt_details, "cached_tokens")
    if read is None:
        read = _count(usage, "prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens")
    write = _count(prompt_details, "cache_write_tokens", "cache_creation_input_tokens")
    if write is None:
        write = _count(usage, "cache_creation_input_tokens")
    lifetimes = _detail(usage, "cache_creation") or _detail(
        prompt_details, "cache_creation_token_details"
    )
    return ReportedTokens(
        prompt_tokens=_count(usage, "prompt_tokens", "input_tokens"),
        completion_tokens=_count(usage, "completion_tokens", "output_tokens"),
        total_tokens=_count(usage, "total_tokens"),
        cache_read_tokens=read,
        cache_write_tokens=write,
        cache_write_1h_tokens=_count(lifetimes, "ephemeral_1h_input_tokens"),
        reasoning_tokens=_count(output_details, "reasoning_tokens"),
        input_audio_tokens=_count(prompt_details, "audio_tokens"),
        output_audio_tokens=_count(output_details, "audio_tokens"),
        cache_read_audio_tokens=_count(
            _detail(prompt_details, "cached_tokens_details"), "audio_tokens"
        ),
    )


def from_anthropic_usage(usage: Mapping[str, Any]) -> ReportedTokens:
    """Read the ``usage`` of Anthropic's Messages API (``anthropic/types/usage.py``).

    As tolerant as `from_openai_usage`. Where all writes are told by their lifetimes alone, they
    are added up.
    """
    lifetimes = _detail(usage, "cache_creation")
    write = _count(usage, "cache_creation_input_tokens")
    hour = _count(lifetimes, "ephemeral_1h_input_tokens")
    if write is None and lifetimes is not None:
        write = (_count(lifetimes, "ephemeral_5m_input_tokens") or 0) + (hour or 0)
    return ReportedTokens(
        prompt_tokens=_count(usage, "input_tokens"),
        completion_tokens=_count(usage, "output_tokens"),
        cache_read_tokens=_count(usage, "cache_read_input_tokens"),
        cache_write_tokens=write,
        cache_write_1h_tokens=hour,
        reasoning_tokens=_count(_detail(usage, "output_tokens_details"), "thinking_tokens"),
    )


def from_gemini_usage(usage: Mapping[str, Any]) -> ReportedTokens:
    """Read Gemini's ``usageMetadata`` (ai.google.dev/api/generate-content, "UsageMetadata").

    The prompt includes what is cached, and not what tools said, which is input as well; thoughts
    lie beside the candidates, which Live calls the response (ai.google.dev/api/live). A modality's
    numbers are parts; what is no sound stays in the whole.
    """
    prompt = _sum(usage, "promptTokenCount", "toolUsePromptTokenCount")
    is_live = _count(usage, "responseTokenCount") is not None
    said = "responseTokenCount" if is_live else "candidatesTokenCount"
    return ReportedTokens(
        prompt_tokens=prompt,
        completion_tokens=_sum(usage, said, "thoughtsTokenCount"),
        total_tokens=_count(usage, "totalTokenCount"),
        cache_read_tokens=_count(usage, "cachedContentTokenCount"),
        reasoning_tokens=_count(usage, "thoughtsTokenCount"),
        input_audio_tokens=_heard(usage, "promptTokensDetails", "toolUsePromptTokensDetails"),
        output_audio_tokens=_heard(usage, "candidatesTokensDetails", "responseTokensDetails"),
        cache_read_audio_tokens=_heard(usage, "cacheTokensDetails"),
    )


def together(reports: Iterable[ReportedTokens]) -> ReportedTokens:
    """The sum of reports of different work; what none of them told is not told."""
    sums: dict[str, int] = {}
    for report in reports:
        for name in ReportedTokens.__slots__:
            if (value := getattr(report, name)) is not None:
                sums[name] = sums.get(name, 0) + value
    return ReportedTokens(**{"prompt_tokens": None, "completion_tokens": None, **sums})


def _says_net(reported: ReportedTokens, cached: int) -> bool:
    """Whether the total adds up only if the cached tokens lie beside the prompt."""
    prompt, completion, total = (
        reported.prompt_tokens,
        reported.completion_tokens,
        reported.total_tokens,
    )
    if not cached or not total or prompt is None or completion is None:
        return False
    return total == prompt + completion + cached and cached != (reported.reasoning_tokens or 0)


def _refuse_impossible(reported: ReportedTokens) -> None:
    for name, value in zip(ReportedTokens.__slots__, _all_counts(reported), strict=True):
        if value is None or 0 <= value <= MOST:
            continue
        if value < 0:
            raise ContradictoryUsage(f"{name} is negative: {value}")
        raise ContradictoryUsage(f"{name} is more than any work has: {Decimal(value):.3e}")


def _both(reported: ReportedTokens, beside: int) -> tuple[int, int]:
    """Prompt and completion tokens; where only one is told, the total tells the other."""
    prompt, completion, total = (
        reported.prompt_tokens,
        reported.completion_tokens,
        reported.total_tokens,
    )
    if prompt is not None and completion is not None:
        return prompt, completion
    known = (prompt or 0) + (completion or 0) + beside
    if total is None or (prompt is None and completion is None) or total < known:
        raise ContradictoryUsage(
            f"prompt tokens ({prompt}) and completion tokens ({completion}) are not both"
            f" reported, and the total ({total}) does not tell"
        )
    rest = total - known
    return (rest, completion or 0) if prompt is None else (prompt, rest)


def _left_out(
    reported: ReportedTokens, counting: Counting, prompt: int, completion: int, beside: int
) -> int:
    """Output tokens that the completion does not count but the total, or reasoning, does."""
    total, reasoning = reported.total_tokens, reported.reasoning_tokens or 0
    counted = prompt + completion
    if not total:  # Pipecat's Responses services say 0 where the vendor told no total.
        beside_completion = counting is Counting.GEMINI and reasoning > completion
        return reasoning if beside_completion else 0
    if counting is Counting.GEMINI and total == counted - reasoning:
        return 0  # Gemini Live's total leaves its thoughts out.
    if total in (counted, counted + beside):
        return reasoning if counting is Counting.GEMINI and reasoning > completion else 0
    rest = total - counted - beside
    if rest > 0 and (rest == reasoning or (counting is Counting.GEMINI and not reasoning)):
        return rest
    raise ContradictoryUsage(
        f"total tokens ({total}) are not what prompt ({prompt + beside}) and completion"
        f" ({completion}) add up to"
        + (f", with {reasoning} of reasoning or without" if reasoning else "")
    )


def _audio(reported: ReportedTokens, uncached: int, read: int, write: int) -> tuple[int, int]:
    """Audio tokens of the uncached input and of the cache read.

    Where a vendor does not say how much of the cached input was audio, only as much audio is
    taken for cached as does not fit into the uncached input.
    """
    audio, cached = reported.input_audio_tokens or 0, reported.cache_read_audio_tokens
    if audio > uncached + read + write:
        raise ContradictoryUsage(
            f"audio tokens ({audio}) are more than prompt tokens ({uncached + read + write})"
        )
    if cached is None:
        cached = min(max(audio - uncached, 0), read)
    if cached > audio or cached > read:
        raise ContradictoryUsage(
            f"cached audio tokens ({cached}) are more than the audio tokens ({audio})"
            f" or the cached tokens ({read}) that contain them"
        )
    return min(audio - cached, uncached), cached


def _possible(value: int | None) -> int:
    return value if value is not None and 0 <= value <= MOST else 0


def _sum(usage: Mapping[str, Any], *names: str) -> int | None:
    """The sum of the fields that are there; ``None`` where none is."""
    found = [value for name in names if (value := _count(usage, name)) is not None]
    return sum(found) if found else None


def _heard(usage: Mapping[str, Any], *names: str) -> int | None:
    """Tokens of sound in Gemini's lists of modalities; ``None`` where they tell of none."""
    found = [
        count
        for name in names
        for entry in (usage.get(name) if isinstance(usage.get(name), list) else None) or ()
        if _detail(entry, "modality") == "AUDIO"
        and (count := _count(entry, "tokenCount")) is not None
    ]
    return sum(found) if found else None


def _detail(source: Any, *names: str) -> Any:
    """The first of these fields that is there, as an object, a mapping or ``None``."""
    if source is None:
        return None
    is_json = isinstance(source, dict)
    for name in names:
        value = source.get(name) if is_json else _field(source, name)
        if value is not None:
            return value
    return None


def _field(source: Any, name: str) -> Any:
    return source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)


def _count(source: Any, *names: str) -> int | None:
    value = _detail(source, *names)
    if value is None or type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
