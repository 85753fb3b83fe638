"""Amazon's Signature Version 4, as S3 checks it, in headers and in presigned URLs.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-authenticating-requests.html
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from urllib.parse import parse_qsl, quote

_ALGORITHM = "AWS4-HMAC-SHA256"
_SKEW = timedelta(minutes=15)
_UNSIGNED = "UNSIGNED-PAYLOAD"
_HEADER = re.compile(
    _ALGORITHM + r" Credential=([^,]+), ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})"
)


class Rejected(Exception):
    """The code of S3's error."""


def check(
    method: str,
    raw_path: str,
    query: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    keys: Mapping[str, str],
    region: str,
    now: datetime,
) -> None:
    """Return if one of ``keys`` (secrets by their ids) signed the request, or raise `Rejected`."""
    parameters = parse_qsl(query, keep_blank_values=True, encoding="utf-8")
    given = dict(parameters)
    if "X-Amz-Signature" in given:
        credential, signed = given["X-Amz-Credential"], given["X-Amz-SignedHeaders"]
        signature, stamp, payload = given["X-Amz-Signature"], given["X-Amz-Date"], _UNSIGNED
        if now > _time(stamp) + timedelta(seconds=int(given["X-Amz-Expires"])):
            raise Rejected("AccessDenied")
    else:
        found = _HEADER.fullmatch(headers.get("authorization", ""))
        if found is None:
            raise Rejected("AccessDenied")
        credential, signed, signature = found.groups()
        stamp, payload = headers["x-amz-date"], headers["x-amz-content-sha256"]
        if abs(now - _time(stamp)) > _SKEW:
            raise Rejected("RequestTimeTooSkewed")
        if payload not in (_UNSIGNED, sha256(body).hexdigest()):
            raise Rejected("XAmzContentSHA256Mismatch")
    key_id, _, scope = credential.partition("/")
    if key_id not in keys:
        raise Rejected("InvalidAccessKeyId")
    if scope != f"{stamp[:8]}/{region}/s3/aws4_request":
        raise Rejected("AuthorizationHeaderMalformed")
    names = signed.split(";")
    if "host" not in names:
        raise Rejected("AccessDenied")
    asked = [
        method,
        raw_path,
        _canonical(pair for pair in parameters if pair[0] != "X-Amz-Signature"),
        *(f"{name}:{' '.join(headers.get(name, '').split())}" for name in names),
        "",
        signed,
        payload,
    ]
    digest = sha256("\n".join(asked).encode()).hexdigest()
    to_sign = f"{_ALGORITHM}\n{stamp}\n{scope}\n{digest}"
    if not hmac.compare_digest(_signature(keys[key_id], scope, to_sign), signature):
        raise Rejected("SignatureDoesNotMatch")


def _canonical(parameters: Iterable[tuple[str, str]]) -> str:
    pairs = sorted(
        (quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in parameters
    )
    return "&".join(f"{name}={value}" for name, value in pairs)


def _signature(secret: str, scope: str, to_sign: str) -> str:
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), sha256)
    return hmac.digest(key, to_sign.encode(), sha256).hex()


def _time(stamp: str) -> datetime:
    return datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
