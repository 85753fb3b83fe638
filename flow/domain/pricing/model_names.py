"""Names of models: which of them mean the same model.

A vendor names a model (``gpt-4.1``), its releases by a date or a number (``gpt-4.1-2025-04-14``),
and either of them under a path (``models/gemini-2.5-flash``). Any other addition
(``gpt-4.1-nano``) names another model, which has another price.
"""

from __future__ import annotations

import re

from flow.domain.usage.units import Kind

_RELEASE = re.compile(
    r"""
    (?:
        [-@]20\d\d-?(?:0[1-9]|1[0-2])-?(?:0[1-9]|[12]\d|3[01])  # OpenAI -2025-04-14, Anthropic
                                                                # -20250929, Vertex AI @20250929
      | -(?:0[1-9]|1[0-2])-?(?:0[1-9]|[12]\d|3[01])             # -0613, Google -05-06
      | -(?:0[1-9]|1[0-2])-20\d\d                               # Cohere -08-2024
      | -2\d(?:0[1-9]|1[0-2])                                   # Mistral -2411
      | -00\d                                                   # Google -001
    )?
    (?:-v\d+:\d+)?                                              # Amazon Bedrock -v1:0
    """,
    re.VERBOSE,
)
_ADDED = re.compile(
    rf"(?:{_RELEASE.pattern}|:\d+|[-@.](?:preview|latest|exp|experimental|beta|default|instruct))*",
    re.VERBOSE,
)
# Where a beginning of names ends within the date: "claude-sonnet-4-2025", "gpt-5-nano-".
_CUT = re.compile(r"[-@](?:20\d\d-?|0)?$")
_CALLED = (
    (Kind.EMBEDDING, re.compile("embed")),
    (Kind.STT, re.compile("transcribe|whisper|scribe|-stt")),
    (Kind.TTS, re.compile(r"\btts\b|speech|^eleven_")),
)
_UNNAMED = frozenset({"", "unknown"})


def is_release(name: str, model: str) -> bool:
    """Whether ``name`` is ``model`` or one of its dated or numbered releases, both lower case."""
    return name.startswith(model) and bool(_RELEASE.fullmatch(name, len(model)))


def is_unnamed(name: str) -> bool:
    """Whether a vendor's answer left its model out."""
    return name.strip().lower() in _UNNAMED


def stands_for(served: str, asked: str) -> bool:
    """Whether the model that was asked for stands for the one that served: the vendor did not
    name that, or named the same model or a release of it, one of the two under a path."""
    if is_unnamed(served):
        return True
    ours, theirs = asked.lower().split("/"), served.lower().split("/")
    common = min(len(ours), len(theirs))
    return ours[-common:-1] == theirs[-common:-1] and is_release(theirs[-1], ours[-1])


def names_model(name: str, known: str) -> bool:
    """Whether ``name`` means the model that a price list knows by ``known``, both lower case.

    ``known`` is all of the model's name, or its beginning or some part of it. A name may add a
    path, a region or a maker before (``us.anthropic.``), and a release, a preview or the name of
    a fine-tuned model after.
    """
    known = known.lower()
    before, found, after = name.partition(known)
    if not found or (before and before[-1] not in "/.:"):
        return False
    if ".ft-" in known:
        return True
    base, cut = _CUT.subn("", known)
    ends = (after, known[len(base) :] + after) if cut else (after,)
    tuned = name.startswith("ft:")
    return any(_ADDED.fullmatch(end.partition(":")[0] if tuned else end) for end in ends)


def kind_by_name(model: str) -> Kind:
    """What a model is for, by what vendors call theirs: prices do not tell."""
    return next((kind for kind, words in _CALLED if words.search(model.lower())), Kind.LLM)
