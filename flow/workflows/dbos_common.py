"""What every module over DBOS shares: names, versions, and calls of DBOS off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from flow.errors import DatabaseUnavailable

T = TypeVar("T")

APPLICATION = "flow"
# Workflows are recovered by processes of the same version: change it with the steps.
VERSION = "1"
UNDER_WAY = ("ENQUEUED", "DELAYED", "PENDING")
OVER = ("SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")


async def asked(question: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Ask DBOS in a thread."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return await asyncio.to_thread(question, *args, **kwargs)
    except SQLAlchemyError as error:
        raise DatabaseUnavailable() from error
