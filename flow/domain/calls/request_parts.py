"""What the parts of a join request have in common."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo

# An escaped NUL, and not an escaped backslash before the letters u0000.
NUL_ESCAPE = r"(?<!\\)(?:\\\\)*\\u0000"

Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
# Postgres text cannot hold NUL, so a prompt with one is refused rather than lost.
Text = Annotated[str, Field(max_length=32_768, pattern=r"^[^\x00]*$")]

STORED = {"is_stored": True}
"""The context that validates what was judged before, when it was taken in."""
STORING = {"with_secrets": True}
"""The context that serializes what is to be stored, with the secrets that no reader is shown."""


class Part(BaseModel):
    """Base of every part of the request: unknown fields are refused by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def is_stored(info: ValidationInfo) -> bool:
    """Whether this was judged before."""
    return info.context is STORED


def field_of(loc: Sequence[int | str], said: Any) -> str:
    """The dotted path of a problem that pydantic found in what was ``said``.

    Pydantic puts the ``type`` of an object that is one of several into the path, where whoever
    sent the object has no field of that name.
    """
    names = []
    for name in loc:
        if isinstance(said, Mapping) and name not in said and said.get("type") == name:
            continue
        names.append(str(name))
        try:
            said = said[name]
        except (LookupError, TypeError):
            said = None
    return ".".join(names)


def bounded(value: dict[str, Any], most: int) -> dict[str, Any]:
    """The value, if it is JSON of at most so many bytes; raises `ValueError`."""
    try:
        text = json.dumps(value, allow_nan=False)
    except ValueError:
        raise ValueError("NaN and Infinity are not JSON") from None
    if len(text) > most:
        raise ValueError(f"is {len(text)} bytes as JSON; at most {most} are kept")
    if re.search(NUL_ESCAPE, text):
        raise ValueError("must not contain the NUL character")
    return value
