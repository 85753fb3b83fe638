"""Recordings in an S3 bucket, or in one of the many stores that speak S3's protocol.

By obstore, whose core is the object store of Apache Arrow: it signs (SigV4), uploads long files in
parts, tries again, and finds the credentials of a machine or container by itself where none are
set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store
from pydantic import SecretStr

from flow.vendors.recording_storage.storage import CONTENT_TYPE, StorageUnavailable, origin_of

# Of one call; what fails then is tried again later.
RETRY_SECS = 20
TIMEOUT_SECS = 120
DEFAULT_REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class S3Account:
    """How to reach S3. ``endpoint`` is that of a store other than Amazon's; without a key the
    credentials of the machine are used."""

    key_id: str | None = None
    secret: SecretStr | None = None
    region: str | None = None
    endpoint: str | None = None


class S3:
    """The objects of ``bucket`` below ``prefix``."""

    def __init__(self, bucket: str, prefix: str, account: S3Account) -> None:
        options = {
            "region": account.region or (DEFAULT_REGION if account.endpoint else None),
            "endpoint": account.endpoint,
            "access_key_id": account.key_id,
            "secret_access_key": account.secret and account.secret.get_secret_value(),
        }
        self._origin = (
            origin_of(account.endpoint)
            if account.endpoint
            else f"https://{bucket}.s3.{account.region or DEFAULT_REGION}.amazonaws.com"
        )
        self._store = S3Store(
            bucket,
            prefix=prefix or None,
            # Of another store the bucket is seldom a name of the domain name system.
            virtual_hosted_style_request=account.endpoint is None,
            client_options={"allow_http": True, "timeout": timedelta(seconds=TIMEOUT_SECS)},
            retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=RETRY_SECS)},
            **{name: value for name, value in options.items() if value},  # type: ignore[arg-type]
        )

    @property
    def origin(self) -> str | None:
        """That of the store, or of the bucket at Amazon."""
        return self._origin

    async def put(self, path: str, file: Path) -> None:
        """Upload the file, in parts if it is long."""
        with _told():
            await obstore.put_async(
                self._store, path, file, attributes={"Content-Type": CONTENT_TYPE}
            )

    async def get(self, path: str, file: Path) -> None:
        """Download the object."""
        with _told(), file.open("wb") as target:
            found = await obstore.get_async(self._store, path)
            async for chunk in found.stream():
                target.write(chunk)

    async def remove(self, paths: Sequence[str]) -> None:
        """Delete the objects, all in one request (``DeleteObjects``)."""
        if paths:
            with _told():
                await obstore.delete_async(self._store, [*paths])

    async def link(self, path: str, secs: int) -> str | None:
        """A presigned URL; nobody is asked for it."""
        with _told():
            return await obstore.sign_async(self._store, "GET", path, timedelta(seconds=secs))

    def local(self, path: str) -> Path | None:
        """It is elsewhere."""
        return None

    async def aclose(self) -> None:
        """The store closes its connections when it is forgotten."""


@contextmanager
def _told() -> Iterator[None]:
    """Tell failures without what the store says at length, in which requests may be quoted."""
    try:
        yield
    except (BaseError, OSError) as error:
        raise StorageUnavailable(f"S3 cannot be used: {type(error).__name__}") from error
