"""Recordings in a bucket of Supabase Storage, by its REST API and the service role key.

The paths are those of supabase/storage's own routes, which Supabase's clients use: ``POST``,
``GET`` and ``DELETE /object/{bucket}/...``, and ``POST /object/sign/{bucket}/...``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from pydantic import SecretStr

from flow.kit.tls import trusted
from flow.vendors.recording_storage.storage import CONTENT_TYPE, StorageUnavailable, origin_of

TIMEOUT = httpx.Timeout(30, write=120, read=120)
_CHUNK = 2**18


class SupabaseStorage:
    """The objects of ``bucket`` below ``prefix``; the bucket is there, and private."""

    def __init__(self, url: str, key: SecretStr, bucket: str, prefix: str) -> None:
        secret = key.get_secret_value()
        self._base = f"{url}/storage/v1"
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._http = httpx.AsyncClient(
            headers={"apikey": secret, "Authorization": f"Bearer {secret}"},
            timeout=TIMEOUT,
            verify=trusted(),
        )

    @property
    def origin(self) -> str | None:
        """That of the service."""
        return origin_of(self._base)

    async def put(self, path: str, file: Path) -> None:
        """Upload the file, in place of one that is there."""
        headers = {
            "Content-Type": CONTENT_TYPE,
            "Content-Length": str(_size(file)),
            "x-upsert": "true",
        }
        where = self._object(path)
        answer = await self._ask("POST", where, content=_chunks(file), headers=headers)
        _told(answer, dict, "Key")

    async def get(self, path: str, file: Path) -> None:
        """Download the object."""
        try:
            async with self._http.stream("GET", self._base + self._object(path)) as answer:
                _check(answer)
                with file.open("wb") as target:
                    async for chunk in answer.aiter_bytes():
                        target.write(chunk)
        except httpx.HTTPError as error:
            raise _unavailable(error) from error

    async def remove(self, paths: Sequence[str]) -> None:
        """Delete the objects; those that are not there are left out by the service."""
        if paths:
            prefixes = [self._prefix + path for path in paths]
            where = f"/object/{self._bucket}"
            _told(await self._ask("DELETE", where, json={"prefixes": prefixes}), list)

    async def link(self, path: str, secs: int) -> str | None:
        """A URL that the service signs."""
        where = self._object(path).replace("/object/", "/object/sign/", 1)
        answer = await self._ask("POST", where, json={"expiresIn": secs})
        return f"{self._base}{_told(answer, dict, 'signedURL')['signedURL']}"

    def local(self, path: str) -> Path | None:
        """It is elsewhere."""
        return None

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def _object(self, path: str) -> str:
        return f"/object/{self._bucket}/{quote(self._prefix + path)}"

    async def _ask(self, method: str, where: str, **request: Any) -> httpx.Response:
        try:
            answer = await self._http.request(method, self._base + where, **request)
        except httpx.HTTPError as error:
            raise _unavailable(error) from error
        return _check(answer)


def _check(answer: httpx.Response) -> httpx.Response:
    if not answer.is_success:
        raise StorageUnavailable(f"Supabase Storage answered {answer.status_code}.")
    return answer


def _told(answer: httpx.Response, kind: type[list[Any]] | type[dict[str, Any]], *names: str) -> Any:
    """The JSON of an answer, which something between here and the service may have made up."""
    try:
        told = answer.json()
    except ValueError:
        told = None
    if not isinstance(told, kind) or not all(name in told for name in names):
        raise StorageUnavailable("Supabase Storage gave no answer of its own.")
    return told


def _unavailable(error: httpx.HTTPError) -> StorageUnavailable:
    return StorageUnavailable(f"Supabase Storage does not answer: {type(error).__name__}")


def _size(file: Path) -> int:
    return file.stat().st_size


async def _chunks(file: Path) -> AsyncIterator[bytes]:
    with file.open("rb") as source:
        while chunk := source.read(_CHUNK):
            yield chunk
