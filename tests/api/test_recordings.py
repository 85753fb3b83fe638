"""The link to a recording, and the file behind it where Flow serves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from flow.api.recordings import RecordingView
from flow.domain.calls.recording import RecordingPart
from flow.domain.calls.thread import Status
from flow.vendors.recording_storage.folder import Folder
from flow.vendors.recording_storage.storage import StorageUnavailable
from tests.api.conftest import Api, ServeApi

SOUND = bytes(range(200))


class Away(Folder):
    async def link(self, path: str, secs: int) -> str | None:
        raise StorageUnavailable


async def recorded(api: Api, folder: Path) -> str:
    """A call whose recording is ready, in a folder."""
    thread_id: str = (await api.join({"recording": {"retention_days": 2}}))["workflow_thread_id"]
    await api.in_call(thread_id)
    await api.database.save_workflow_thread_data(UUID(thread_id), status=Status.ENDED)
    part = RecordingPart(uuid4(), datetime.now(UTC), f"{thread_id}/a.flac", 93.4, 200, True)
    (folder / thread_id).mkdir(parents=True)
    (folder / str(part.path)).write_bytes(SOUND)
    assert await api.database.recordings.store_part(UUID(thread_id), part, 2)
    assert await api.database.recordings.settle(UUID(thread_id), [part.id])
    return thread_id


async def test_a_link_opens_the_recording_for_a_while(serve_api: ServeApi, tmp_path: Path) -> None:
    api = await serve_api(recordings=Folder(tmp_path), recording_link_secs=600)
    thread_id = await recorded(api, tmp_path)
    shown = (await api.client.get(f"/api/threads/{thread_id}")).json()["recording"]
    RecordingView.model_validate(shown)
    assert (shown["status"], shown["seconds"], shown["channels"]) == ("ready", 93.4, 2)
    until = datetime.fromisoformat(shown["expires_at"])
    assert timedelta(seconds=598) < until - api.now() <= timedelta(seconds=600)
    kept = datetime.fromisoformat(shown["kept_until"]) - datetime.now(UTC)
    assert timedelta(days=1.9) < kept <= timedelta(days=2)
    whole = await api.anonymous.get(shown["url"])
    assert (whole.status_code, whole.content) == (200, SOUND)
    assert whole.headers["content-type"] == "audio/flac"
    part = await api.anonymous.get(shown["url"], headers={"Range": "bytes=100-149"})
    assert (part.status_code, part.content) == (206, SOUND[100:150])
    assert part.headers["content-range"] == "bytes 100-149/200"
    head = await api.anonymous.head(shown["url"])
    assert (head.status_code, head.headers["content-length"]) == (200, "200")
    api.now.moved = timedelta(seconds=601)
    assert (await api.anonymous.get(shown["url"])).json()["code"] == "expired_token"


async def test_nobody_else_can_read_a_recording(serve_api: ServeApi, tmp_path: Path) -> None:
    api = await serve_api(recordings=Folder(tmp_path))
    thread_id = await recorded(api, tmp_path)
    other = (await api.join({}))["connection"]["url"]
    token = other.partition("token=")[2]
    path = f"/api/bot/{thread_id}/recording"
    assert (await api.client.get(path)).content == SOUND
    assert (await api.other.get(path)).status_code == 404
    assert (await api.anonymous.get(path)).status_code == 401
    for wrong in (token, "", "a.b.c"):
        answer = await api.anonymous.get(path, params={"token": wrong})
        assert answer.status_code in {401, 403}


async def test_a_link_to_a_deleted_recording_leads_nowhere(
    serve_api: ServeApi, tmp_path: Path
) -> None:
    api = await serve_api(recordings=Folder(tmp_path))
    thread_id = await recorded(api, tmp_path)
    url = (await api.client.get(f"/api/threads/{thread_id}")).json()["recording"]["url"]
    (tmp_path / thread_id / "a.flac").unlink()
    assert (await api.anonymous.get(url)).status_code == 404


@pytest.mark.parametrize("storage", [Away(Path("/nowhere")), None])
async def test_a_thread_is_shown_although_its_storage_is_away(
    storage: Folder | None, serve_api: ServeApi, tmp_path: Path
) -> None:
    api = await serve_api(recordings=storage)
    thread_id = await recorded(api, tmp_path)
    shown = (await api.client.get(f"/api/threads/{thread_id}")).json()["recording"]
    assert (shown["status"], shown["url"], shown["expires_at"]) == ("ready", None, None)


async def test_only_a_call_that_asked_for_it_has_a_recording(api: Api) -> None:
    asked = (await api.join({"recording": True}))["workflow_thread_id"]
    others = [(await api.join(body))["workflow_thread_id"] for body in ({}, {"recording": False})]
    shown = (await api.client.get(f"/api/threads/{asked}")).json()["recording"]
    assert shown["status"] == "recording"
    for thread_id in others:
        assert (await api.client.get(f"/api/threads/{thread_id}")).json()["recording"] is None


@pytest.mark.parametrize(
    "wrong", ["yes", {"retention_days": 0}, {"retention_days": 4_000}, {"a": 1}]
)
async def test_a_recording_that_cannot_be_is_refused(wrong: object, api: Api) -> None:
    answer = await api.client.post("/api/bot/join", json={"recording": wrong})
    assert answer.status_code == 422
    assert "recording" in answer.text
