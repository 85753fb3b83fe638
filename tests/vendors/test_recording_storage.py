"""Each storage of recordings, with its real client, against what speaks its wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from flow.sandbox.faults import Fault
from flow.sandbox.server import Served
from flow.sandbox.storage import s3, supabase
from flow.sandbox.storage.s3 import S3Sandbox
from flow.sandbox.storage.supabase import SupabaseStorageSandbox
from flow.vendors.recording_storage.folder import Folder
from flow.vendors.recording_storage.s3 import S3, S3Account
from flow.vendors.recording_storage.storage import RecordingStorage, StorageUnavailable
from flow.vendors.recording_storage.supabase import SupabaseStorage

PATH = "0b6d1a52/part one.flac"


@dataclass(frozen=True, slots=True)
class Kept:
    storage: RecordingStorage
    stand_in: S3Sandbox | SupabaseStorageSandbox | None


def account(url: str, secret: str = s3.SECRET) -> S3Account:
    return S3Account(s3.KEY_ID, SecretStr(secret), s3.REGION, url)


@asynccontextmanager
async def kept(kind: str, folder: Path) -> AsyncIterator[Kept]:
    if kind == "file":
        yield Kept(Folder(folder / "kept"), None)
        return
    stand_in = S3Sandbox() if kind == "s3" else SupabaseStorageSandbox()
    async with Served(stand_in) as url:
        storage: RecordingStorage = (
            S3(s3.BUCKET, "eu/calls", account(url))
            if kind == "s3"
            else SupabaseStorage(url, SecretStr(supabase.SERVICE_KEY), supabase.BUCKET, "eu/calls")
        )
        yield Kept(storage, stand_in)
        await storage.aclose()


KINDS = ["file", "s3", "supabase"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1_000, 12_000_000])
async def test_what_is_put_can_be_had_and_linked_until_it_is_removed(
    kind: str, size: int, tmp_path: Path
) -> None:
    file, back = tmp_path / "made.flac", tmp_path / "back.flac"
    content = bytes(range(250)) * (size // 250)
    file.write_bytes(b"older")
    async with kept(kind, tmp_path) as held:
        await held.storage.put(PATH, file)
        file.write_bytes(content)
        await held.storage.put(PATH, file)
        await held.storage.get(PATH, back)
        assert back.read_bytes() == content
        url, local = await held.storage.link(PATH, 60), held.storage.local(PATH)
        if held.stand_in is None:
            assert url is None
            assert held.storage.origin is None
            assert local is not None
            assert local.stat().st_mode & 0o77 == 0
        else:
            assert local is None
            assert url is not None
            assert url.startswith(f"{held.storage.origin}/")
            assert list(held.stand_in.objects) == [f"eu/calls/{PATH}"]
            assert set(held.stand_in.types.values()) == {"audio/flac"}
            async with httpx.AsyncClient(trust_env=False) as reader:
                part = await reader.get(url, headers={"Range": "bytes=10-19"})
                assert (part.status_code, part.content) == (206, content[10:20])
                other = await reader.get(url.replace("part", "another"))
                assert other.is_error
        await held.storage.remove([PATH, "never/there.flac"])
        await held.storage.remove([PATH])
        assert held.storage.local(PATH) is None
        with pytest.raises(StorageUnavailable):
            await held.storage.get(PATH, back)


async def test_links_to_amazon_lead_to_the_bucket_s_own_host() -> None:
    storage = S3("calls", "eu", S3Account("key", SecretStr("secret"), "eu-central-1"))
    assert storage.origin == "https://calls.s3.eu-central-1.amazonaws.com"
    assert (await storage.link(PATH, 60) or "").startswith(f"{storage.origin}/eu/")


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("does", ["put", "get", "remove", "link"])
@pytest.mark.parametrize(
    "fault",
    [Fault(kind="status", status=403), Fault(kind="status", status=400), Fault(kind="malformed")],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
async def test_a_storage_that_fails_is_told_as_such(
    kind: str, does: str, fault: Fault, tmp_path: Path
) -> None:
    file = tmp_path / "made.flac"
    file.write_bytes(b"sound")
    async with kept(kind, tmp_path) as held:
        assert held.stand_in is not None
        await held.storage.put(PATH, file)
        held.stand_in.faults.add(fault)
        done = {
            "put": lambda: held.storage.put(PATH, file),
            "get": lambda: held.storage.get(PATH, file),
            "remove": lambda: held.storage.remove([PATH]),
            "link": lambda: held.storage.link(PATH, 60),
        }[does]
        is_local = kind == "s3" and does == "link"  # nobody is asked
        is_unnoticed = fault.kind == "malformed" and does == "get"  # any bytes are a file
        if is_local or is_unnoticed:
            await done()
            return
        with pytest.raises(StorageUnavailable) as raised:
            await done()
        assert s3.SECRET not in str(raised.value)
        assert supabase.SERVICE_KEY not in str(raised.value)


@pytest.mark.parametrize("kind", KINDS[1:])
async def test_a_storage_that_fails_for_a_moment_is_asked_again_by_s3_alone(
    kind: str, tmp_path: Path
) -> None:
    file = tmp_path / "made.flac"
    file.write_bytes(b"sound")
    async with kept(kind, tmp_path) as held:
        assert held.stand_in is not None
        held.stand_in.faults.add(Fault(kind="status", status=503, times=1))
        if kind == "s3":
            await held.storage.put(PATH, file)
        else:  # a part is tried again as a whole
            with pytest.raises(StorageUnavailable):
                await held.storage.put(PATH, file)
            await held.storage.put(PATH, file)
        assert list(held.stand_in.objects.values()) == [b"sound"]


async def test_s3_checks_who_signed(tmp_path: Path) -> None:
    file = tmp_path / "made.flac"
    file.write_bytes(b"sound")
    stand_in = S3Sandbox()
    async with Served(stand_in) as url:
        with pytest.raises(StorageUnavailable):
            await S3(s3.BUCKET, "", account(url, "another secret")).put(PATH, file)
        with pytest.raises(StorageUnavailable):
            await S3("another-bucket", "", account(url)).put(PATH, file)
        good = S3(s3.BUCKET, "", account(url))
        await good.put(PATH, file)
        link = await good.link(PATH, 60)
        assert link is not None
        async with httpx.AsyncClient(trust_env=False) as reader:
            longer = await reader.get(link.replace("X-Amz-Expires=60", "X-Amz-Expires=600"))
        assert longer.status_code == 403
        assert "SignatureDoesNotMatch" in longer.text
    assert list(stand_in.objects) == [PATH]


async def test_a_folder_that_cannot_be_written_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file where the folder should be")
    with pytest.raises(StorageUnavailable):
        await Folder(tmp_path / "kept").put(PATH, tmp_path / "kept")
