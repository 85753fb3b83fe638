"""Recordings of calls: where they go, and what brings them there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit

from flow.app.shared_resources import Resources
from flow.errors import ConfigurationError
from flow.kit.installed import is_installed, requirement
from flow.recordings.journal import JournalWriter
from flow.recordings.recordings import LOOK_SECS, Recordings
from flow.settings import Settings
from flow.vendors.recording_storage.folder import Folder
from flow.vendors.recording_storage.storage import RecordingStorage
from flow.vendors.recording_storage.supabase import SupabaseStorage

if TYPE_CHECKING:
    from flow.bot.recording import SoundRecorders

JOURNALS = "recordings"
EXAMPLES = "file:///folder, s3://bucket/prefix or supabase://bucket/prefix"


@dataclass(frozen=True, slots=True)
class RecordingParts:
    """What records, stores and shows calls."""

    storage: RecordingStorage
    recordings: Recordings
    writer: JournalWriter
    days: int

    def recorders(self) -> SoundRecorders:
        """What calls are recorded by."""
        from flow.bot.recording import SoundRecorders

        return SoundRecorders(self.writer, self.recordings, self.days)


@asynccontextmanager
async def open_recordings(resources: Resources) -> AsyncIterator[RecordingParts | None]:
    """Store recordings as long as the block lasts; ``None`` where the settings name no place.

    Raises:
        ConfigurationError: the place cannot be used.
    """
    settings = resources.settings
    if settings.recordings_url is None:
        yield None
        return
    storage = storage_of(settings)
    folder = settings.data_dir / JOURNALS
    recordings = Recordings(
        resources.database.recordings, storage, folder, min(LOOK_SECS, settings.sweep_secs)
    )
    writer = JournalWriter(folder)
    looking = asyncio.create_task(recordings.forever(), name="recordings")
    try:
        yield RecordingParts(storage, recordings, writer, settings.recordings_days)
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        await asyncio.to_thread(writer.close)
        await recordings.aclose()
        await storage.aclose()


def storage_of(settings: Settings) -> RecordingStorage:
    """The storage that ``FLOW_RECORDINGS_URL`` names.

    Raises:
        ConfigurationError: it is none, or something else that it needs is missing.
    """
    assert settings.recordings_url is not None, "it has been looked at"
    url = urlsplit(settings.recordings_url)
    if url.query or url.fragment or "@" in url.netloc:
        raise _wrong("has more than a place: give keys by their own settings")
    match url.scheme:
        case "file":
            return _folder(url)
        case "s3":
            return _s3(url, settings)
        case "supabase":
            return _supabase(url, settings)
    raise _wrong(f"must be {EXAMPLES}")


def _folder(url: SplitResult) -> Folder:
    if url.netloc or not url.path.strip("/"):
        raise _wrong("must name a folder by its whole path, as in file:///var/lib/recordings")
    return Folder(Path(unquote(url.path)))


def _s3(url: SplitResult, settings: Settings) -> RecordingStorage:
    bucket, prefix = _place(url)
    if not is_installed("obstore"):
        raise _wrong(f"s3:// needs a package: install {requirement('s3')}")
    if (settings.aws_access_key_id is None) != (settings.aws_secret_access_key is None):
        raise ConfigurationError("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go together.")
    from flow.vendors.recording_storage.s3 import S3, S3Account

    account = S3Account(
        settings.aws_access_key_id,
        settings.aws_secret_access_key,
        settings.aws_region,
        settings.aws_endpoint_url,
    )
    return S3(bucket, prefix, account)


def _supabase(url: SplitResult, settings: Settings) -> SupabaseStorage:
    bucket, prefix = _place(url)
    if settings.supabase_url is None or settings.supabase_service_role_key is None:
        raise _wrong("supabase:// needs SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY")
    return SupabaseStorage(
        settings.supabase_url, settings.supabase_service_role_key, bucket, prefix
    )


def _place(url: SplitResult) -> tuple[str, str]:
    if not url.netloc or ":" in url.netloc:
        raise _wrong(f"must name a bucket: {EXAMPLES}")
    return url.netloc, unquote(url.path).strip("/")


def _wrong(said: str) -> ConfigurationError:
    return ConfigurationError(f"FLOW_RECORDINGS_URL: {said}.")
