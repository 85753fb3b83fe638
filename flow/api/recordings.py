"""Recordings of calls: the link in a thread, and the file where Flow itself serves it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

import structlog
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from flow.api.auth import caller_of
from flow.api.call_connections import base_url
from flow.api.dependencies import Services, services_of
from flow.api.problems import documented
from flow.domain.calls import join_token as tokens
from flow.domain.calls.recording import CallRecording, RecordingPart, RecordingStatus
from flow.domain.calls.thread import Thread
from flow.errors import NotFound, Unavailable
from flow.vendors.recording_storage.storage import CONTENT_TYPE

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/api/bot", tags=["threads"])

PATH = "recording"
"""The last part of the route of a recording's file."""
CHANNELS = 2
# Keeps links apart from the tokens of joins, which open the same thread.
_BEARER = "the reader of a recording"


class RecordingView(BaseModel):
    """The recording that a join or agent asked for: the caller left, the bot right."""

    status: RecordingStatus = Field(
        description="`recording`, `storing`, `ready`, `failed`, `deleted`, or `none` where nothing"
        " sounded."
    )
    url: str | None = Field(description="Where it can be read for a while, once it is ready.")
    expires_at: datetime | None = Field(description="Until when that URL is good.")
    started_at: datetime | None = Field(description="When its first sample sounded.")
    seconds: float | None = Field(description="How long it is.", examples=[93.44])
    channels: int = Field(default=CHANNELS, description="Always two: caller left, bot right.")
    complete: bool | None = Field(
        description="Whether nothing is missing of what sounded; null while that is open."
    )
    kept_until: datetime | None = Field(description="When it will be deleted.")
    deleted_at: datetime | None = Field(description="When it was deleted.")


async def recording_of(request: Request, thread: Thread) -> RecordingView | None:
    """A thread's recording; ``None`` where its join and agent asked for none."""
    if thread.join.recording is None:
        return None
    services = services_of(request)
    found = await services.database.recordings.get(thread.id)
    if found is None:
        waits = not thread.status.is_final
        found = CallRecording(
            RecordingStatus.RECORDING if waits else RecordingStatus.NONE, complete=True, parts=()
        )
    whole = found.whole
    url, until = (None, None) if whole is None else await _link(request, thread.id, found, whole)
    is_open = found.status in {RecordingStatus.RECORDING, RecordingStatus.STORING}
    return RecordingView(
        status=found.status,
        url=url,
        expires_at=until,
        started_at=None if whole is None else whole.started_at,
        seconds=None if whole is None else whole.seconds,
        complete=None if is_open else found.complete,
        kept_until=found.expires_at,
        deleted_at=found.deleted_at,
    )


@router.head("/{thread_id:uuid}/" + PATH, include_in_schema=False)
@router.get(
    "/{thread_id:uuid}/" + PATH,
    response_class=FileResponse,
    responses=documented(404),
)
async def get_recording(
    request: Request,
    thread_id: UUID,
    token: Annotated[str | None, Query(description="That of the link in the thread.")] = None,
) -> Response:
    """The sound of a recorded call, where this service keeps it itself; parts of it by `Range`."""
    services = services_of(request)
    if token is None:
        await services.database.get_workflow_thread_data(thread_id, caller_of(request).id)
    else:
        tokens.check(services.secret, token, thread_id, services.now(), _BEARER)
    found = await services.database.recordings.get(thread_id)
    if found is None or found.whole is None or found.whole.path is None:
        raise NotFound("There is no recording of this call, or it is not ready, or deleted.")
    storage = services.recordings
    if storage is None or (file := storage.local(found.whole.path)) is None:
        raise NotFound("The recording of this call is not kept here.")
    return FileResponse(
        file,
        media_type=CONTENT_TYPE,
        filename=f"{thread_id}.flac",
        content_disposition_type="inline",
        headers={"Cache-Control": "private"},
    )


async def _link(
    request: Request, thread_id: UUID, found: CallRecording, whole: RecordingPart
) -> tuple[str | None, datetime | None]:
    """Where a recording can be read, and until when; neither where its storage is away."""
    services = services_of(request)
    now = services.now().replace(microsecond=0)
    until = now + timedelta(seconds=services.recording_link_secs)
    if found.expires_at is not None:
        until = min(until, found.expires_at.replace(microsecond=0))
    if services.recordings is None or whole.path is None or until <= now:
        return None, None
    secs = int((until - now).total_seconds())
    try:
        url = await services.recordings.link(whole.path, secs)
    except Unavailable as error:
        log.warning("recording_link_failed", workflow_thread_id=str(thread_id), error=str(error))
        return None, None
    return url or _own_link(request, services, thread_id, until), until


def _own_link(request: Request, services: Services, thread_id: UUID, until: datetime) -> str:
    token = tokens.sign(services.secret, thread_id, until, bearer=_BEARER)
    return f"{base_url(request, services)}/api/bot/{thread_id}/{PATH}?token={token}"
