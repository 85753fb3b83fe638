"""Telephone calls by Plivo: its webhook, and the audio of a call over a media stream.

https://www.plivo.com/docs/voice/xml/audio-streaming; Plivo's calls are answered here, not placed.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as Xml

import httpx
from pipecat.frames.frames import Frame
from pipecat.serializers.plivo import PlivoFrameSerializer
from pydantic import SecretStr

from flow.bot.transports.media_stream import (
    MAX_START_CHARACTERS,
    SAMPLE_RATE,
    bounded_message,
    document_of,
    is_key,
    is_sound,
    object_of,
    read_message,
    require_format,
    speakable,
    text_of,
)
from flow.bot.transports.spec import MediaStreamSpec
from flow.domain.calls.media_stream import CallNews, CarriedCall, CarrierRequest, MediaStream
from flow.domain.calls.transport_spec import CallAddress, stream_url
from flow.errors import InvalidInput, Refused
from flow.vendors.carrier_api import account_request
from flow.vendors.plivo import API_URL, Plivo, is_call_uuid

_FORMAT = {"encoding": "audio/x-mulaw", "sampleRate": SAMPLE_RATE}
# Extra headers come back as a JSON object or as ``{name: value}``, each name with a prefix or not.
_TOKEN = re.compile(r"""(?:X-PH-)?token["']?\s*[:=]\s*["']?([A-Z2-7]+)""", re.IGNORECASE)
_WEBHOOK_OPENAPI = {
    "parameters": [
        {
            "name": name,
            "in": "header",
            "required": True,
            "description": "Plivo's signature of the request.",
            "schema": {"type": "string"},
        }
        for name in ("X-Plivo-Signature-V3", "X-Plivo-Signature-V3-Nonce")
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/x-www-form-urlencoded": {
                "schema": {
                    "type": "object",
                    "required": ["CallUUID"],
                    "properties": {"CallUUID": {"type": "string", "format": "uuid"}},
                    "additionalProperties": {"type": "string"},
                }
            }
        },
    },
}


class PlivoCarrier:
    """Telephone calls of one Plivo account."""

    dialler = None

    def __init__(self, plivo: Plivo) -> None:
        self._plivo = plivo

    @classmethod
    def of_settings(cls, settings: Mapping[str, str]) -> PlivoCarrier:
        """The carrier that these values of `TRANSPORT`'s settings and options name."""
        token = SecretStr(settings["PLIVO_AUTH_TOKEN"])
        url = settings.get("PLIVO_BASE_URL", API_URL)
        return cls(Plivo(settings["PLIVO_AUTH_ID"], token, url))

    def call_of(self, request: CarrierRequest) -> CarriedCall:
        """The call that a webhook's request is about.

        Raises:
            Refused: code ``invalid_signature``.
            InvalidInput: it names no call.
        """
        signatures = request.headers.get("x-plivo-signature-v3", "")
        nonce = request.headers.get("x-plivo-signature-v3-nonce", "")
        if not self._plivo.signed(signatures, nonce, request.url, request.form):
            raise Refused(
                "invalid_signature",
                "This is not signed by Plivo for this URL.",
                hint="FLOW_PUBLIC_URL must be the address that Plivo calls, and PLIVO_AUTH_TOKEN"
                " its account's.",
            )
        form = dict(request.form)
        call_id = form.get("CallUUID", "")
        if not is_call_uuid(call_id):
            raise InvalidInput("Plivo's request does not say which call it is about (CallUUID).")
        return CarriedCall(call_id, _number(form.get("From", "")), _number(form.get("To", "")))

    def news_of(self, request: CarrierRequest) -> CallNews:
        """Nothing is asked of Plivo that it would tell about; raises as `call_of`."""
        return CallNews(self.call_of(request).call_id)

    async def hang_up(self, call_id: str) -> None:
        """Have Plivo end the call, which it keeps alive without its stream."""
        await self._plivo.hang_up(call_id)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._plivo.aclose()


class PlivoCallSerializer(PlivoFrameSerializer):
    """Pipecat's rendering of Plivo's messages, of which a caller may send audio and keys alone.

    Pipecat would also hang up at Plivo, but without a time limit and from within the pipeline: see
    `PlivoCarrier` instead. ``stop`` is Plivo's word that the call is over.
    """

    def __init__(self, stream: MediaStream, stop: Callable[[], None]) -> None:
        super().__init__(stream.stream_id, params=self.InputParams(auto_hang_up=False))
        self._stop = stop

    async def deserialize(self, data: str | bytes) -> Frame | None:
        """The frame in ``data``: audio, or a key that was pressed; or `None`."""
        message = bounded_message(data)
        if message.get("event") == "stop":
            self._stop()
        if not is_sound(message) and not is_key(message):
            return None
        frame: Frame | None = await super().deserialize(data)
        return frame


def document(stream_url: str, token: str) -> bytes:
    """XML that connects a call to its media stream.

    Extra headers hold letters and digits alone, and 512 bytes.
    """
    response = Xml.Element("Response")
    packed = base64.b32encode(token.encode()).decode().rstrip("=")
    attributes = {
        "bidirectional": "true",
        "keepCallAlive": "true",
        "contentType": f"audio/x-mulaw;rate={SAMPLE_RATE}",
        "extraHeaders": f"token={packed}",
    }
    Xml.SubElement(response, "Stream", attributes).text = stream_url
    return document_of(response)


def spoken(text: str, language: str | None) -> bytes:
    """XML that says a text and hangs up (https://www.plivo.com/docs/voice/xml/speak)."""
    response = Xml.Element("Response")
    Xml.SubElement(response, "Speak", {"language": language or "en-US"}).text = speakable(text)
    Xml.SubElement(response, "Hangup")
    return document_of(response)


def started(text: str) -> MediaStream | None:
    """The start of a stream, which is its first message.

    Raises:
        InvalidInput: it is no such message, or of some other sound.
    """
    message = read_message(text) if len(text) <= MAX_START_CHARACTERS else {}
    start = object_of(message, "start")
    stream_id, call_id = text_of(start, "streamId"), text_of(start, "callId")
    if message.get("event") != "start" or not stream_id or not is_call_uuid(call_id):
        raise InvalidInput("The stream does not begin as Plivo's do.")
    require_format(start, _FORMAT)
    return MediaStream(stream_id, call_id, _token(message.get("extra_headers")))


def _token(headers: Any) -> str:
    found = _TOKEN.search(headers if isinstance(headers, str) else str(headers))
    packed = "" if found is None else found[1].upper()
    try:
        return base64.b32decode(packed + "=" * (-len(packed) % 8)).decode()
    except (binascii.Error, ValueError):
        return ""


def _number(text: str) -> str:
    """A number as Plivo gives it, without its ``+``, as E.164 writes it."""
    return f"+{text}" if text.isdigit() else text


def _connection(at: CallAddress) -> dict[str, str]:
    """``answer_url`` is what Plivo is to be given as the call's."""
    url = stream_url(at.base, at.thread_id, TRANSPORT.name)
    return {"url": url, "answer_url": at.http(TRANSPORT.webhook)}


def _show_account(settings: Mapping[str, str]) -> httpx.Request:
    account = settings["PLIVO_AUTH_ID"]
    url = f"{settings.get('PLIVO_BASE_URL', API_URL)}/v1/Account/{quote(account)}/"
    return account_request(url, account, settings["PLIVO_AUTH_TOKEN"])


TRANSPORT = MediaStreamSpec(
    name="plivo",
    settings=("PLIVO_AUTH_ID", "PLIVO_AUTH_TOKEN"),
    options=("PLIVO_BASE_URL",),
    connection=_connection,
    webhook="plivo-answer",
    webhook_openapi=_WEBHOOK_OPENAPI,
    carrier=PlivoCarrier.of_settings,
    key_request=_show_account,
    document=document,
    spoken=spoken,
    controls=frozenset({"send_dtmf"}),
    started=started,
    serializer=PlivoCallSerializer,
)
