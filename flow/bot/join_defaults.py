"""From what a join asks for to what its bot is built from.

What the join leaves out comes from the product, and what the product leaves out from the service.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any

from flow.bot.service_choices import api_of
from flow.bot.vendors import VENDORS, vendors_by_part
from flow.bot.vendors.spec import Choice, ServiceSpec, Vendor
from flow.domain.calls.bot_part import BotPart
from flow.domain.calls.flow_rules import flow_problems
from flow.domain.calls.join_request import Bot, JoinRequest, TurnDetection
from flow.domain.calls.tools import McpTool
from flow.domain.products.product import ModelName, Models, Product, Products
from flow.errors import ConfigurationError, FieldProblem, InvalidInput, Refused
from flow.kit.installed import is_installed, requirement

REMEMBERED = 1_000


class Resolver:
    """Fills in what joins leave out, and refuses what cannot be or may not be used.

    Args:
        defaults: the vendor, model and voice where neither join nor product names one, as the
            ``bot`` part of a join: ``{"llm": {"provider": ..., "model": ...}, "stt": ...}``.
        reachable: the vendors that have a key here.
        turn_detection: what tells the end of turns where a join does not say, and the service
            that hears does not tell it by itself.
        vendors: those there are.
        bots: the names of the operator's own bots.
        recording_days: how long recordings are kept; ``None``: none are made here.

    Raises:
        ConfigurationError: a product allows neither a default of its own nor the service's, or a
            default cannot be used here: its vendor is unknown, or its key or package is missing.
    """

    def __init__(
        self,
        products: Products,
        defaults: Mapping[str, Mapping[str, str]],
        reachable: Collection[str],
        turn_detection: TurnDetection = "silence",
        vendors: Mapping[str, Vendor] = VENDORS,
        bots: Collection[str] = (),
        recording_days: int | None = None,
    ) -> None:
        self._recording_days = recording_days
        self._products = products
        self._defaults = defaults
        self._reachable = reachable
        self._bots = bots
        self._vendors = vendors
        self._turn_detection: TurnDetection = (
            "silence" if turn_detection == "vendor" else turn_detection
        )
        # Customers join with few different bots, as far as this goes.
        self._chosen = lru_cache(maxsize=REMEMBERED)(self._choose)
        wrong = [problem for default in self._all_defaults() for problem in self._wrong(*default)]
        if wrong:
            raise ConfigurationError("\n".join(dict.fromkeys(wrong)))

    def resolve(self, join: JoinRequest) -> JoinRequest:
        """The join under its product's own name, with all that it leaves out filled in.

        Raises:
            Refused: ``unknown_product`` or ``model_not_allowed``.
            InvalidInput: a bot, vendor, voice, language, turn detection or recording that this
                service does not have, or a call longer than the product's longest.
        """
        product = self._products.for_call(join.product)
        bot = join.bot
        asked = tuple((part, getattr(bot, part)) for part in bot.parts)
        filled, wrong = self._chosen(product.name, asked, bot.language)
        if problems := [
            *_duration_problems(join, product),
            *_rtvi_problems(join),
            *_recording_problems(join, self._recording_days),
            *self._name_problems(bot.name),
            *_tool_problems(bot),
            *_flow_problems(bot),
            *wrong,
        ]:
            raise InvalidInput("The bot cannot be built as asked.", problems)
        for part in bot.parts:
            _require_allowed(product, part, filled[part])
        detection = {"turn_detection": self._turns_told_by(bot, filled)}
        return join.model_copy(
            update={
                "product": product.name,
                "bot": join.bot.model_copy(update=filled | detection),
                "max_duration_secs": join.max_duration_secs or product.max_duration_secs,
            }
        )

    def _choose(
        self, product: str, parts: tuple[tuple[BotPart, Any], ...], language: str | None
    ) -> tuple[dict[str, Any], list[FieldProblem]]:
        """The parts of a bot filled in, and what is wrong with them."""
        models = self._products.for_call(product)
        filled: dict[str, Any] = {}
        problems: list[FieldProblem] = []
        for part, asked in parts:
            filled[part] = self._filled(part, asked, getattr(models, part))
            problems += self._problems(part, filled[part])
        return filled, [*problems, *_language_problems(language)]

    def _turns_told_by(self, bot: Bot, filled: Mapping[str, Any]) -> TurnDetection:
        """What tells the end of the caller's turns."""
        part = bot.parts[0]
        spec = service_of(self._vendors[filled[part].provider], part, filled[part])
        tells = spec is not None and spec.tells_turns
        asked = bot.turn_detection
        if asked is None:
            return "vendor" if tells else self._turn_detection
        name = f"{filled[part].provider}/{filled[part].model}"
        if asked == "vendor" and not tells:
            raise _no_turn_detection(f"{name} does not tell turns by itself: use silence or smart")
        if asked != "vendor" and tells and part is BotPart.REALTIME:
            raise _no_turn_detection(f"{name} tells turns by itself: use vendor")
        return asked

    def _default(self, part: str, models: Models) -> dict[str, str]:
        """Vendor, model and voice for a part of which a join says nothing."""
        service = self._defaults[part]
        if models.default is None:
            own = {"voice": models.voice} if models.voice else {}
            return {**service, **own}
        same = models.default.provider == service["provider"]
        voice = models.voice or (service.get("voice") if same else None)
        named = {"provider": models.default.provider, "model": models.default.model}
        return {**named, "voice": voice} if voice else named

    def _filled(self, part: str, asked: Any, models: Models) -> Any:
        default = self._default(part, models)
        provider = asked.provider or default["provider"]
        if provider != default["provider"]:
            # A default model or voice belongs to the default vendor only.
            return asked
        missing = {name: value for name, value in default.items() if not getattr(asked, name)}
        return asked.model_copy(update=missing)

    def _problems(self, part: BotPart, chosen: Any) -> Iterator[FieldProblem]:
        """What is wrong with a part of a bot."""
        vendor = self._vendors.get(chosen.provider)
        if problem := self._vendor_problem(vendor, part, chosen.provider):
            yield FieldProblem(f"bot.{part}.provider", *problem)
        if chosen.model is None:
            yield FieldProblem(f"bot.{part}.model", f"name a model of {chosen.provider!r}")
        elif vendor is not None and part in vendor.parts:
            yield from _service_problems(vendor, part, chosen)

    def _vendor_problem(
        self, vendor: Vendor | None, part: BotPart, name: str
    ) -> tuple[str, str | None] | None:
        """What is wrong with a vendor, and the hint for the operator."""
        if vendor is None or part not in vendor.parts:
            able = ", ".join(sorted(vendors_by_part(self._vendors)[part]))
            return f"{name!r} is not one of {able}", None
        if name not in self._reachable:
            return f"{name!r} is not set up here", f"For {name!r} set {vendor.needed}."
        if vendor.missing is not None:
            return f"{name!r} is not set up here", f"For {name!r} {vendor.missing}."
        return None

    def _name_problems(self, name: str | None) -> Iterator[FieldProblem]:
        if name is None or name in self._bots:
            return
        there_are = ", ".join(sorted(self._bots)) or "the bots here: there is none with a name"
        yield FieldProblem("bot.name", f"{name!r} is not one of {there_are}")

    def _all_defaults(self) -> Iterator[tuple[Product, BotPart, ModelName]]:
        """What is used of each product and part where a join says nothing of it."""
        for product in self._products:
            for part in BotPart if product.calls else ():
                default = self._default(part, getattr(product, part))
                yield product, part, ModelName(default["provider"], default["model"])

    def _wrong(self, product: Product, part: BotPart, name: ModelName) -> Iterator[str]:
        models: Models = getattr(product, part)
        variables = f"FLOW_{part.upper()}_PROVIDER and FLOW_{part.upper()}_MODEL"
        if not models.allows(name.provider, name.model):
            yield (
                f"The product {product.name} does not allow {name}, which is the service's"
                f" default: give {product.name}.{part} a default of its own, or set {variables}."
            )
        vendor = self._vendors.get(name.provider)
        if problem := self._vendor_problem(vendor, part, name.provider):
            where = f"{product.name}.{part}.default" if models.default else variables
            said, hint = problem
            told = f"{name}, the default of bot.{part}, cannot be used: {said} (see {where})."
            yield f"{told} {hint}" if hint else told


def _require_allowed(product: Product, part: str, chosen: Any) -> None:
    models: Models = getattr(product, part)
    if not models.allows(chosen.provider, chosen.model):
        allowed = ", ".join(models.allowed or ())
        raise Refused(
            "model_not_allowed",
            f"The product {product.name} does not allow {chosen.provider}/{chosen.model} as"
            f" bot.{part}; it allows {allowed}.",
        )


def _no_turn_detection(problem: str) -> InvalidInput:
    problems = [FieldProblem("bot.turn_detection", problem)]
    return InvalidInput("The bot cannot be built as asked.", problems)


def _recording_problems(join: JoinRequest, most_days: int | None) -> Iterator[FieldProblem]:
    if join.recording is None:
        return
    if most_days is None:
        yield FieldProblem(
            "recording", "calls are not recorded here", hint="Set FLOW_RECORDINGS_URL."
        )
    elif (days := join.recording.retention_days) is not None and days > most_days:
        said = f"is {days}; recordings are kept for {most_days} days at the longest here"
        yield FieldProblem("recording.retention_days", said)


def _tool_problems(bot: Bot) -> Iterator[FieldProblem]:
    if bot.name is not None and bot.tools:
        yield FieldProblem("bot.tools", "are not for a bot with a name, which has tools of its own")
    if any(isinstance(tool, McpTool) for tool in bot.tools) and not is_installed("mcp"):
        hint = f"For MCP install {requirement('mcp')}."
        yield FieldProblem("bot.tools", "MCP is not set up here", hint)


def _flow_problems(bot: Bot) -> Iterator[FieldProblem]:
    if bot.flow is None:
        return
    if bot.name is not None:
        said = "is not for a bot with a name, which has a conversation of its own"
        yield FieldProblem("bot.flow", said)
    if bot.realtime is not None:
        said = (
            "is for a bot of stt, llm and tts: a speech-to-speech session keeps the tools and the"
            " conversation that it has begun with"
        )
        yield FieldProblem("bot.flow", said)
    yield from flow_problems(bot.flow, bot.tools)


def _rtvi_problems(join: JoinRequest) -> Iterator[FieldProblem]:
    """What the built-in bot cannot take from a client, though the join would allow it."""
    rtvi, bot = join.transport.rtvi, join.bot
    if rtvi is None or bot.name is not None:
        return
    field = "transport.rtvi.allow"
    if "messages" in rtvi.allow:
        yield FieldProblem(field, "messages are for a bot of one's own, which bot.name names")
    if "text" in rtvi.allow and bot.realtime is not None:
        yield FieldProblem(field, "text is for a bot of stt, llm and tts, not for realtime")


def _duration_problems(join: JoinRequest, product: Product) -> Iterator[FieldProblem]:
    asked = join.max_duration_secs
    if asked is not None and asked > product.max_duration_secs:
        most = f"calls of {product.name} last at most {product.max_duration_secs} s, not {asked}"
        yield FieldProblem("max_duration_secs", most)


def service_of(vendor: Vendor, part: BotPart, chosen: Any) -> ServiceSpec | None:
    """The service that a part of a join means, or ``None``."""
    return vendor.service(
        part, Choice(chosen.provider, chosen.model, chosen.model_dump(), api_of(chosen))
    )


def _service_problems(vendor: Vendor, part: BotPart, chosen: Any) -> Iterator[FieldProblem]:
    api = api_of(chosen)
    spec = service_of(vendor, part, chosen)
    if spec is None and api not in {one.api for one in vendor.services if one.part is part}:
        yield FieldProblem(f"bot.{part}.api", f"{vendor.name!r} has no API {api!r}: leave it out")
    elif spec is None:
        yield FieldProblem(
            f"bot.{part}.model", f"{vendor.name!r} has no {part} service for {chosen.model!r}"
        )
    elif spec.voices is not None and chosen.voice is not None:
        voices = spec.voices()
        if chosen.voice not in voices:
            one_of = ", ".join(sorted(voices))
            yield FieldProblem(f"bot.{part}.voice", f"{chosen.voice!r} is not one of {one_of}")


def _language_problems(language: str | None) -> Iterator[FieldProblem]:
    from pipecat.transcriptions.language import Language

    if language is not None and language not in set(Language):
        yield FieldProblem("bot.language", f"{language!r} is not a language known here")
