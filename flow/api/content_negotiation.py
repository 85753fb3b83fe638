"""Which of the forms on offer a caller wants, by its ``Accept`` header (RFC 9110, 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from flow.errors import Refused

_CHARSET = re.compile(r";\s*charset\s*=[^;,]*", re.IGNORECASE)


def preferred(accept: str, offered: Sequence[str]) -> str:
    """The media type of ``offered`` that ``accept`` ranks highest; the first one on a tie.

    Raises:
        Refused: code ``not_acceptable``; none of them is wanted.
    """
    if not accept.strip(", "):
        return offered[0]
    # All text is UTF-8 here, so a range that asks for a character set asks for no other form.
    wanted = parse_accept_header(_CHARSET.sub("", accept), MIMEAccept)
    best = max(offered, key=wanted.quality)
    if wanted.quality(best) <= 0:
        raise Refused("not_acceptable", f"The answer comes as {' or '.join(offered)}.")
    return best
