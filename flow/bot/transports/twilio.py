"""Telephone calls by Twilio: its webhook, and the audio of a call over a media stream.

The messages are described at https://www.twilio.com/docs/voice/media-streams/websocket-messages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from urllib.parse import quote
from xml.etree import ElementTree as Xml

import httpx
from pipecat.frames.frames import Frame
from pipecat.serializers.twilio import TwilioFrameSerializer
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
from flow.domain.calls.phone_call import CarrierStatus
from flow.domain.calls.tools import CALL_CONTROLS
from flow.domain.calls.transport_spec import CallAddress, stream_url
from flow.errors import InvalidInput, Refused
from flow.vendors.carrier_api import account_request
from flow.vendors.twilio import API_URL, Twilio, is_call_sid

_STREAM_SID = re.compile(r"MZ[0-9a-f]{32}")
_FORMAT = {"encoding": "audio/x-mulaw", "sampleRate": SAMPLE_RATE, "channels": 1}
_WEBHOOK_OPENAPI = {
    "parameters": [
        {
            "name": "X-Twilio-Signature",
            "in": "header",
            "required": True,
            "description": "Twilio's signature of the request.",
            "schema": {"type": "string"},
        }
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/x-www-form-urlencoded": {
                "schema": {
                    "type": "object",
                    "required": ["CallSid"],
                    "properties": {"CallSid": {"type": "string", "pattern": "^CA[0-9a-f]{32}$"}},
                    "additionalProperties": {"type": "string"},
                }
            }
        },
    },
}


class TwilioCarrier:
    """Telephone calls of one Twilio account."""

    def __init__(self, twilio: Twilio) -> None:
        self._twilio = twilio

    @classmethod
    def of_settings(cls, settings: Mapping[str, str]) -> TwilioCarrier:
        """The carrier that these values of `TRANSPORT`'s settings and options name."""
        token = SecretStr(settings["TWILIO_AUTH_TOKEN"])
        url = settings.get("TWILIO_BASE_URL", API_URL)
        return cls(Twilio(settings["TWILIO_ACCOUNT_SID"], token, url))

    @property
    def dialler(self) -> Twilio:
        """The account: it places calls."""
        return self._twilio

    def call_of(self, request: CarrierRequest) -> CarriedCall:
        """The call that a webhook's request is about.

        Raises:
            Refused: code ``invalid_signature``.
            InvalidInput: it names no call.
        """
        form = self._form(request)
        return CarriedCall(_sid(form), form.get("From", ""), form.get("To", ""))

    def news_of(self, request: CarrierRequest) -> CallNews:
        """What a status callback, or that of answering-machine detection, says; raises as
        `call_of`.

        https://www.twilio.com/docs/voice/api/call-resource#statuscallback
        https://www.twilio.com/docs/voice/answering-machine-detection#async-amd
        """
        form = self._form(request)
        status = form.get("CallStatus", "")
        known = CarrierStatus(status) if status in set(CarrierStatus) else None
        return CallNews(_sid(form), known, form.get("AnsweredBy"))

    async def hang_up(self, call_id: str) -> None:
        """Have Twilio end the call: one whose stream is closed goes on with the TwiML after it."""
        await self._twilio.hang_up(call_id)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._twilio.aclose()

    def _form(self, request: CarrierRequest) -> dict[str, str]:
        """The fields of a request that Twilio has signed."""
        signature = request.headers.get("x-twilio-signature", "")
        if not self._twilio.signed(signature, request.url, request.form):
            raise Refused(
                "invalid_signature",
                "This is not signed by Twilio for this URL.",
                hint="FLOW_PUBLIC_URL must be the address that Twilio calls, and TWILIO_AUTH_TOKEN"
                " its account's.",
            )
        return dict(request.form)


class TwilioCallSerializer(TwilioFrameSerializer):
    """Pipecat's rendering of Twilio's messages, of which a caller may send audio and keys alone.

    What is neither, or not sane, is dropped. ``stop``
    is Twilio's word that the call is over, whatever becomes of the socket. Pipecat would also hang
    up at Twilio, but without a time limit and from within the pipeline: see `TwilioCarrier`
    instead.
    """

    def __init__(self, stream: MediaStream, stop: Callable[[], None]) -> None:
        super().__init__(stream.stream_id, params=self.InputParams(auto_hang_up=False))
        self._stop = stop
        self.dropped = 0

    async def deserialize(self, data: str | bytes) -> Frame | None:
        """The frame in ``data``: audio, or a key that was pressed; or `None`."""
        message = bounded_message(data)
        if message.get("event") == "stop":
            self._stop()
            return None
        if not is_sound(message) and not is_key(message):
            self.dropped += 1
            return None
        frame: Frame | None = await super().deserialize(data)
        return frame


def twiml(stream_url: str, token: str) -> bytes:
    """TwiML that connects a call to its media stream."""
    response = Xml.Element("Response")
    stream = Xml.SubElement(Xml.SubElement(response, "Connect"), "Stream", url=stream_url)
    Xml.SubElement(stream, "Parameter", name="token", value=token)
    return document_of(response)


def spoken(text: str, language: str | None) -> bytes:
    """TwiML that says a text and hangs up.

    Languages are those of https://www.twilio.com/docs/voice/twiml/say#attributes-language.
    """
    response = Xml.Element("Response")
    _say(response, text, language)
    Xml.SubElement(response, "Hangup")
    return document_of(response)


def conference(room: str, announcement: str | None, language: str | None) -> bytes:
    """TwiML that puts a call into a conference of two, which is over when one of them leaves.

    https://www.twilio.com/docs/voice/twiml/conference
    """
    response = Xml.Element("Response")
    if announcement is not None:
        _say(response, announcement, language)
    attributes = {"endConferenceOnExit": "true", "beep": "false", "maxParticipants": "2"}
    Xml.SubElement(Xml.SubElement(response, "Dial"), "Conference", attributes).text = room
    return document_of(response)


def _say(parent: Xml.Element, text: str, language: str | None) -> None:
    attributes = {} if language is None else {"language": language}
    Xml.SubElement(parent, "Say", attributes).text = speakable(text)


def _sid(form: Mapping[str, str]) -> str:
    call_sid = form.get("CallSid", "")
    if not is_call_sid(call_sid):
        raise InvalidInput("Twilio's request does not say which call it is about (CallSid).")
    return call_sid


def started(text: str) -> MediaStream | None:
    """The start of a stream, or ``None`` for the ``connected`` that comes before it.

    Raises:
        InvalidInput: it is neither of them, or a stream of some other sound.
    """
    message = read_message(text) if len(text) <= MAX_START_CHARACTERS else {}
    if message.get("event") == "connected":
        return None
    start = message.get("start")
    if message.get("event") != "start" or not isinstance(start, dict):
        raise InvalidInput("The stream does not begin as Twilio's do.")
    stream_sid, call_sid = text_of(start, "streamSid"), text_of(start, "callSid")
    if not _STREAM_SID.fullmatch(stream_sid) or not is_call_sid(call_sid):
        raise InvalidInput("The stream does not say which call it is of.")
    require_format(start, _FORMAT)
    return MediaStream(stream_sid, call_sid, text_of(object_of(start, "customParameters"), "token"))


def _connection(at: CallAddress) -> dict[str, str]:
    """``twiml_url`` is what Twilio is to be given as the call's webhook."""
    url = stream_url(at.base, at.thread_id, TRANSPORT.name)
    return {"url": url, "twiml_url": at.http(TRANSPORT.webhook)}


def _show_account(settings: Mapping[str, str]) -> httpx.Request:
    account = settings["TWILIO_ACCOUNT_SID"]
    url = f"{settings.get('TWILIO_BASE_URL', API_URL)}/2010-04-01/Accounts/{quote(account)}.json"
    return account_request(url, account, settings["TWILIO_AUTH_TOKEN"])


TRANSPORT = MediaStreamSpec(
    name="twilio",
    settings=("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"),
    options=("TWILIO_BASE_URL",),
    connection=_connection,
    webhook="twiml",
    webhook_openapi=_WEBHOOK_OPENAPI,
    carrier=TwilioCarrier.of_settings,
    key_request=_show_account,
    document=twiml,
    spoken=spoken,
    bridge=conference,
    places_calls=True,
    controls=CALL_CONTROLS,
    started=started,
    serializer=TwilioCallSerializer,
)
