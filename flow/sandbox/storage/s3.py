"""A stand-in for S3: one bucket, with objects, uploads in parts and signatures that are checked.

Paths are ``/{bucket}/{key}``, as for every store but Amazon's own. Errors are S3's XML.
"""

from __future__ import annotations

import xml.etree.ElementTree as Xml
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import md5
from itertools import count
from xml.sax.saxutils import escape

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flow.sandbox.stand_in import StandIn, exchange_of
from flow.sandbox.storage.ranges import ranged
from flow.sandbox.storage.signature_v4 import Rejected, check

KEY_ID = "sandbox_s3_key_id"
SECRET = "sandbox_s3_secret_key"  # noqa: S105 - a stand-in's, and no secret
REGION = "us-east-1"
BUCKET = "recordings"

_XML = "application/xml"
_STATUS = {"NoSuchKey": 404, "NoSuchBucket": 404, "NoSuchUpload": 404, "InvalidPart": 400}


class S3Sandbox(StandIn):
    """The app. ``objects`` are what is stored, by key; ``types`` their content types."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.objects: dict[str, bytes] = {}
        self.types: dict[str, str] = {}
        self._uploads: dict[str, dict[int, bytes]] = {}
        self._names = count(1)
        self._now = now
        methods = ["GET", "HEAD", "PUT", "POST", "DELETE"]
        routes = [
            Route("/{bucket}", self._serve_key, methods=["POST"]),
            Route("/{bucket}/{key:path}", self._serve_key, methods=methods),
        ]
        super().__init__(routes, _error)

    async def _serve_key(self, request: Request) -> Response:
        body = await request.body()
        try:
            self._check(request, body)
            return self._answer(request, request.path_params.get("key", ""), body)
        except (Rejected, _Refused) as error:
            code = str(error)
            return _error(_STATUS.get(code, 403), code, exchange_of(request).request_id)

    def _check(self, request: Request, body: bytes) -> None:
        scope = request.scope
        check(
            request.method,
            scope["raw_path"].decode(),
            scope["query_string"].decode(),
            request.headers,
            body,
            keys={KEY_ID: SECRET},
            region=REGION,
            now=self._now(),
        )
        if request.path_params["bucket"] != BUCKET:
            raise _Refused("NoSuchBucket")

    def _answer(self, request: Request, key: str, body: bytes) -> Response:
        asked: Mapping[str, str] = request.query_params
        match request.method:
            case "PUT" if "uploadId" in asked:
                return self._take_part(asked, body)
            case "PUT":
                return self._store(key, body, request.headers.get("content-type", ""))
            case "POST" if "uploads" in asked:
                return self._begin(key, request.headers.get("content-type", ""))
            case "POST" if "uploadId" in asked:
                return self._complete(key, asked["uploadId"], body)
            case "DELETE" if "uploadId" in asked:
                self._uploads.pop(asked["uploadId"], None)
                return Response(status_code=204)
            case "POST" if "delete" in asked:
                return self._remove_many(body)
            case "DELETE":
                self._remove(key)
                return Response(status_code=204)
            case "GET" | "HEAD":
                if key not in self.objects:
                    raise _Refused("NoSuchKey")
                return ranged(request, self.objects[key], self.types[key])
        raise _Refused("MethodNotAllowed")

    def _store(self, key: str, body: bytes, media_type: str) -> Response:
        self.objects[key], self.types[key] = body, media_type
        return Response(headers={"ETag": _etag(body)})

    def _begin(self, key: str, media_type: str) -> Response:
        upload = f"upload-{next(self._names)}"
        self._uploads[upload] = {}
        self.types[key] = media_type
        return _document(f"<UploadId>{upload}</UploadId>", "InitiateMultipartUploadResult")

    def _take_part(self, asked: Mapping[str, str], body: bytes) -> Response:
        if asked["uploadId"] not in self._uploads:
            raise _Refused("NoSuchUpload")
        self._uploads[asked["uploadId"]][int(asked["partNumber"])] = body
        return Response(headers={"ETag": _etag(body)})

    def _complete(self, key: str, upload: str, body: bytes) -> Response:
        parts = self._uploads.pop(upload, None)
        if parts is None:
            raise _Refused("NoSuchUpload")
        listed = [(int(_text(p, "PartNumber")), _text(p, "ETag")) for p in _parsed(body)]
        if any(_etag(parts.get(number, b"?")) != tag for number, tag in listed):
            raise _Refused("InvalidPart")
        whole = b"".join(parts[number] for number, _ in listed)
        self.objects[key] = whole
        return _document(f"<ETag>{_etag(whole)}</ETag>", "CompleteMultipartUploadResult")

    def _remove_many(self, body: bytes) -> Response:
        keys = [_text(one, "Key") for one in _parsed(body) if one.tag.endswith("Object")]
        for key in keys:
            self._remove(key)
        told = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        return _document(told, "DeleteResult")

    def _remove(self, key: str) -> None:
        self.objects.pop(key, None)
        self.types.pop(key, None)


class _Refused(Exception):
    """The code of S3's error."""


def _etag(body: bytes) -> str:
    return f'"{md5(body, usedforsecurity=False).hexdigest()}"'


def _parsed(body: bytes) -> Xml.Element:
    return Xml.fromstring(body)  # noqa: S314 - of our own client


def _text(element: Xml.Element, name: str) -> str:
    return next(child.text or "" for child in element if child.tag.endswith(name))


def _document(content: str, name: str) -> Response:
    space = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
    return Response(f"<{name} {space}>{content}</{name}>", media_type=_XML)


def _error(status: int, code: str, request_id: str) -> Response:
    told = f"<Code>{escape(code)}</Code><RequestId>{request_id}</RequestId>"
    return Response(f"<Error>{told}</Error>", status, media_type=_XML)
