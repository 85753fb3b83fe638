"""Each vendor's row of the contract: its stand-in, and how its bill is held against the ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Any

from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pydantic import SecretStr

from flow.bot.vendors import VENDORS
from flow.bot.vendors.spec import Choice, ServiceSpec
from flow.domain.calls.bot_part import BotPart
from flow.domain.usage.events import Provenance, UsageEvent
from flow.domain.usage.units import Kind
from flow.sandbox.anthropic import AnthropicSandbox
from flow.sandbox.bill import Amounts, Bill
from flow.sandbox.cartesia.app import CartesiaSandbox
from flow.sandbox.deepgram.app import DeepgramSandbox
from flow.sandbox.elevenlabs.app import ElevenLabsSandbox
from flow.sandbox.faults import Faults
from flow.sandbox.google.app import GoogleSandbox
from flow.sandbox.openai.app import OpenAISandbox
from flow.sandbox.openai.azure import AzureOpenAISandbox
from flow.sandbox.openai.chat import OPENAI, Dialect, Pace
from flow.sandbox.openai.replies import Script
from flow.sandbox.server import Served
from flow.sandbox.stand_in import ModelStandIn
from flow.vendors.model_endpoint import Endpoint
from flow.vendors.openai_client import openai_endpoint

TIMEOUT_SECS = 1.0
ALL_QUANTITIES = (
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "characters",
    "audio_seconds",
)
REPLY = " ".join(f"Sentence number {n} tells you a little more." for n in range(12))


@dataclass(frozen=True)
class Running:
    """A vendor's stand-in, serving."""

    endpoint: Endpoint
    bill: Bill
    faults: Faults


@dataclass(frozen=True)
class Row:
    """One service of one vendor.

    Attributes:
        serve: starts its stand-in.
        options: what a join says of it beside the model.
        bills: the quantities that the vendor bills by, among those of its bill.
        protocol_of: the vendor whose protocol and stand-in it shares, and whose row is held to all
            of the contract. This row is held to what differs between vendors of one protocol: what
            is sent whole, how an attempt is refused, and that it is in the account under its name.
        api: which of the vendor's APIs it is, where there are several.
        variant: what sets it apart from another row of the same model.
        sends_lost_again: whether a request whose connection was lost before any answer is sent
            again.
        around: the processors ``before`` and ``after`` it in its pipeline.
    """

    vendor: str
    part: BotPart
    model: str
    serve: Callable[[], Any]
    options: dict[str, Any] = field(default_factory=dict)
    bills: tuple[str, ...] = ALL_QUANTITIES
    protocol_of: str | None = None
    api: str = "chat"
    variant: str = ""
    sends_lost_again: bool = True
    around: Callable[[], dict[str, Any]] = dict

    @property
    def kind(self) -> Kind:
        return self.part.kind

    @property
    def choice(self) -> Choice:
        return Choice(self.vendor, self.model, self.options, self.api)

    @property
    def name(self) -> str:
        name = f"{self.vendor}-{self.part.value}-{self.model}"
        told = (self.api.removeprefix("chat"), self.variant)
        return "-".join([name, *filter(None, told)])


@dataclass(frozen=True)
class SocketRow(Row):
    """One service of one vendor that streams over WebSockets.

    Attributes:
        codes: those that the vendor closes a connection with when something is wrong.
        messages: how many it has sent in the middle of the first piece of work.
        reports: whether it says at the end of a connection how much it took.
        keep_alive: has the Pipecat service send what keeps an idle connection open; ``None``
            where it sends nothing, or the vendor bills what it sends.
    """

    codes: tuple[int, ...] = (1011,)
    messages: int = 2
    reports: bool = False
    keep_alive: Callable[[Any], Awaitable[None]] | None = None


@dataclass(frozen=True)
class RealtimeRow(Row):
    """One service of one vendor that hears and speaks.

    Attributes:
        transcribes: whether what the caller says is transcribed by a model that is paid for apart.
        hears_at_once: whether its session is there when the call begins; what is said before is
            lost.
        messages: how many the vendor has sent in the middle of its first answer.
    """

    transcribes: bool = False
    hears_at_once: bool = False
    messages: int = 20


@asynccontextmanager
async def openai_stand_in(
    dialect: Dialect = OPENAI, script: Script = (REPLY,)
) -> AsyncIterator[Running]:
    sandbox = OpenAISandbox(script, pace=Pace(token_secs=0.002), dialect=dialect)
    async with Served(sandbox) as url:
        endpoint = openai_endpoint(SecretStr("sk-fake"), f"{url}/v1", timeout_secs=TIMEOUT_SECS)
        yield Running(endpoint, sandbox.bill, sandbox.faults)
        await endpoint.close()


@asynccontextmanager
async def azure_stand_in(surface: str, script: Script = (REPLY,)) -> AsyncIterator[Running]:
    sandbox = AzureOpenAISandbox(
        script, deployments={"assistant": "gpt-4.1"}, pace=Pace(token_secs=0.002)
    )
    async with Served(sandbox) as url:
        endpoint = Endpoint(SecretStr("fake"), f"{url}{surface}", timeout_secs=TIMEOUT_SECS)
        yield Running(endpoint, sandbox.bill, sandbox.faults)
        await endpoint.close()


@asynccontextmanager
async def anthropic_stand_in(script: Script = (REPLY,)) -> AsyncIterator[Running]:
    sandbox = AnthropicSandbox(script, pace=Pace(token_secs=0.002))
    async with Served(sandbox) as url:
        endpoint = Endpoint(SecretStr("sk-ant-fake"), url, timeout_secs=TIMEOUT_SECS)
        yield Running(endpoint, sandbox.bill, sandbox.faults)
        await endpoint.close()


@asynccontextmanager
async def stand_in(make: Callable[[], ModelStandIn]) -> AsyncIterator[Running]:
    """A vendor's stand-in, at whose root its API is."""
    sandbox = make()
    async with Served(sandbox) as url:
        endpoint = Endpoint(SecretStr("a fake key"), url, timeout_secs=TIMEOUT_SECS)
        yield Running(endpoint, sandbox.bill, sandbox.faults)
        await endpoint.close()


cartesia_stand_in = partial(stand_in, CartesiaSandbox)
deepgram_stand_in = partial(stand_in, DeepgramSandbox)
elevenlabs_stand_in = partial(stand_in, ElevenLabsSandbox)


def google_stand_in(script: Script = (REPLY,)) -> AbstractAsyncContextManager[Running]:
    return stand_in(lambda: GoogleSandbox(script, pace=Pace(token_secs=0.002)))


async def _elevenlabs_keep_alive(service: Any) -> None:
    await service._send_keepalive()


def elevenlabs_voice(model: str) -> SocketRow:
    """A model of ElevenLabs that speaks."""
    return SocketRow(
        "elevenlabs",
        BotPart.TTS,
        model,
        elevenlabs_stand_in,
        {"language": "en"},
        bills=("characters",),
        codes=(1008, 1011),
        keep_alive=_elevenlabs_keep_alive,
    )


OPENAIS_CHAT = ("groq", "deepseek", "openrouter", "cerebras", "together", "xai")
# Their Pipecat services do not ask for usage.
UNASKED = ("mistral", "fireworks")
ROWS = (
    Row("openai", BotPart.LLM, "gpt-4.1", openai_stand_in),
    Row("openai", BotPart.LLM, "gpt-4.1", openai_stand_in, api="responses"),
    *(
        Row(vendor, BotPart.LLM, "gpt-4.1", openai_stand_in, protocol_of="openai")
        for vendor in OPENAIS_CHAT
    ),
    *(
        Row(
            vendor,
            BotPart.LLM,
            "gpt-4.1",
            partial(openai_stand_in, Dialect(reports_unasked=True)),
            protocol_of="openai",
        )
        for vendor in UNASKED
    ),
    *(
        Row(
            "azure",
            BotPart.LLM,
            "assistant",
            partial(azure_stand_in, surface),
            protocol_of="openai",
            variant=variant,
        )
        for variant, surface in (("v1", "/openai/v1"), ("dated", ""))
    ),
    Row("anthropic", BotPart.LLM, "claude-haiku-4-5", anthropic_stand_in),
    Row("google", BotPart.LLM, "gemini-2.5-flash", google_stand_in, sends_lost_again=False),
    Row("openai", BotPart.STT, "gpt-4o-transcribe", openai_stand_in, {"language": "en"}),
    Row("openai", BotPart.STT, "whisper-1", openai_stand_in, {"language": "en"}),
    Row("openai", BotPart.TTS, "gpt-4o-mini-tts", openai_stand_in, {"voice": "alloy"}),
)


async def _deepgram_keep_alive(service: Any) -> None:
    await service._connection.send_keep_alive()


SOCKET_ROWS = (
    SocketRow(
        "deepgram",
        BotPart.STT,
        "nova-3-general",
        deepgram_stand_in,
        {"language": "en"},
        bills=("audio_seconds",),
        codes=(1008, 1011),
        messages=1,
        reports=True,
        keep_alive=_deepgram_keep_alive,
    ),
    SocketRow(
        "deepgram",
        BotPart.STT,
        "flux-general-en",
        deepgram_stand_in,
        bills=("audio_seconds",),
        codes=(1008, 1011),
    ),
    SocketRow(
        "deepgram",
        BotPart.TTS,
        "aura-2",
        deepgram_stand_in,
        {"voice": "thalia", "language": "en"},
        bills=("characters",),
        codes=(1003, 1008, 1009, 1011),
    ),
    SocketRow(
        "cartesia",
        BotPart.TTS,
        "sonic-3.6",
        cartesia_stand_in,
        {"voice": None, "language": "en"},
        bills=("characters",),
    ),
    SocketRow(
        "cartesia",
        BotPart.STT,
        "ink-whisper",
        cartesia_stand_in,
        {"language": "en"},
        bills=("audio_seconds",),
        messages=1,
    ),
    SocketRow(
        "cartesia",
        BotPart.STT,
        "ink-2",
        cartesia_stand_in,
        {"language": None},
        bills=("audio_seconds",),
    ),
    elevenlabs_voice("eleven_flash_v2_5"),
    elevenlabs_voice("eleven_v4_turbo"),
    SocketRow(
        "elevenlabs",
        BotPart.STT,
        "scribe_v2_realtime",
        elevenlabs_stand_in,
        {"language": "en"},
        bills=("audio_seconds",),
        codes=(1008, 1011),
    ),
)
"""Those that stream over WebSockets, held to a contract of their own."""


@asynccontextmanager
async def openai_realtime_stand_in(script: Script = (REPLY,)) -> AsyncIterator[Running]:
    sandbox = OpenAISandbox(script, pace=Pace(token_secs=0.002), speak=a_tenth_a_word)
    async with Served(sandbox) as url:
        endpoint = openai_endpoint(SecretStr("sk-fake"), f"{url}/v1", timeout_secs=TIMEOUT_SECS)
        yield Running(endpoint, sandbox.bill, sandbox.faults)
        await endpoint.close()


@asynccontextmanager
async def gemini_live_stand_in(
    session_secs: float | None = None, script: Script = (REPLY,)
) -> AsyncIterator[Running]:
    sandbox = GoogleSandbox(
        script, pace=Pace(token_secs=0.002), speak=a_tenth_a_word, session_secs=session_secs
    )
    async with Served(sandbox) as url:
        endpoint = Endpoint(SecretStr("AIza-fake"), url, timeout_secs=TIMEOUT_SECS)
        yield Running(endpoint, sandbox.bill, sandbox.faults)
        await endpoint.close()


def a_tenth_a_word(text: str, *, sample_rate: int = 24_000) -> bytes:
    """A voice that takes a tenth of a second for each word."""
    return bytes(len(text.split()) * sample_rate // 10 * 2)


def aggregators() -> dict[str, Any]:
    """What gathers the turns of both sides around a service, which some rely on."""
    pair = LLMContextAggregatorPair(LLMContext([]))
    return {"before": [pair.user()], "after": [pair.assistant()]}


OPENAI_REALTIME = RealtimeRow(
    "openai",
    BotPart.REALTIME,
    "gpt-realtime",
    openai_realtime_stand_in,
    {"system_instruction": "Be kind.", "voice": "marin", "language": "en"},
    transcribes=True,
    hears_at_once=True,
)
GEMINI_LIVE = RealtimeRow(
    "google",
    BotPart.REALTIME,
    "gemini-3.8-live",
    gemini_live_stand_in,
    {"system_instruction": "Be kind."},
    around=aggregators,
)
REALTIME_ROWS = (OPENAI_REALTIME, GEMINI_LIVE)
"""Speech-to-speech, held to a contract of its own."""

WHOLE = tuple(row for row in ROWS if row.protocol_of is None)
"""Rows of a protocol of their own."""


def service_of(row: Row) -> ServiceSpec:
    """The service that a row holds to the contract."""
    spec = VENDORS[row.vendor].service(row.part, row.choice)
    assert spec is not None
    return spec


def uncovered() -> list[str]:
    """The services that no row holds to the contract."""
    covered = [service_of(row) for row in (*ROWS, *SOCKET_ROWS, *REALTIME_ROWS)]
    return [
        f"{name} {spec.part}"
        for name, vendor in VENDORS.items()
        for spec in vendor.services
        if spec not in covered
    ]


# By quantity of a bill: what each estimated event may be off by, absolutely and as a share.
REPORTED = Provenance.REPORTED
_TOLERANCES = {
    "prompt_tokens": (8, Decimal("0.05")),
    "cached_tokens": (0, Decimal(1)),
    "completion_tokens": (16, Decimal("0.10")),
    "characters": (0, Decimal(0)),
    "audio_seconds": (1, Decimal("0.35")),
}


def _ledger(event: UsageEvent) -> dict[str, Decimal]:
    q = event.quantities
    gross = q["input_tokens"] + q["cache_read_tokens"] + q["cache_write_tokens"]
    return {
        "prompt_tokens": Decimal(gross),
        "cached_tokens": Decimal(q["cache_read_tokens"]),
        "completion_tokens": Decimal(q["output_tokens"]),
        "characters": Decimal(q["characters"]),
        "audio_seconds": Decimal(q["audio_seconds"]),
    }


def assert_conserved(
    events: Sequence[UsageEvent],
    bill: Bill,
    spared: int = 0,
    bills: Sequence[str] = ALL_QUANTITIES,
) -> None:
    """The events add up to the bill, but for what is estimated.

    ``spared`` requests may be in the events and not in the bill, or the other way round: what was
    cut off before any answer may have been served or not.
    """
    billed = sum((line.amounts for line in bill.lines), Amounts())
    ours = [_ledger(event) for event in events]
    # Sound that was heard without a report is accounted in seconds alone.
    is_guessed_sound = any(e.kind is Kind.STT and e.provenance is not REPORTED for e in events)
    for name in bills:
        least, share = _TOLERANCES[name]
        if is_guessed_sound and name != "audio_seconds":
            continue
        total = sum((one[name] for one in ours), Decimal(0))
        allowed = sum(
            (
                max(Decimal(least), one[name] * share)
                for one, event in zip(ours, events, strict=True)
                if event.provenance is Provenance.ESTIMATED
            ),
            Decimal(0),
        )
        largest = max([one[name] for one in ours] + [Decimal(getattr(billed, name)), Decimal(0)])
        allowed += spared * largest
        vendor = Decimal(getattr(billed, name))
        assert abs(total - vendor) <= allowed, f"{name}: ledger {total}, bill {vendor}"
