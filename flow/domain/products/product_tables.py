"""The tables of a product file, validated by pydantic.

Validation takes the vendors of each part of a bot (`Vendors`) as its context. Numbers and texts are
never converted into one another: a file that says ``"yes"`` for true has a mistake.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from flow.domain.limits.quota import RATES
from flow.domain.products.product import (
    CALL_FIELDS,
    GATEWAY_FIELDS,
    ModelName,
    Models,
    OnExceeded,
    Product,
    Saving,
    Unpriced,
)
from flow.domain.products.save_mode import SaveMode
from flow.kit.toml_errors import mistake, path_of, sentence_of, suggestion

# The vendors that each part of a bot may come from.
Vendors = Mapping[str, frozenset[str]]

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_BUCKET = re.compile(r"[a-z][a-z0-9_]{0,63}")
_PERMISSION = re.compile(r"[A-Za-z0-9_.:*-]{1,255}")
# Quotas of their own, so no bucket of money may have these names.
_RESERVED_BUCKETS = ("call_seconds", "concurrent_calls")
_LONGEST_CALL_SECS = 14_400
_MOST_USD = 1_000_000
_SOLD = {
    "llm": "language models",
    "stt": "transcription",
    "tts": "voices",
    "realtime": "speech-to-speech",
}
_WILD = "*?["
_DEFAULT = "The model where a join names none; left out: the service's own default."
_ALLOWED = "Patterns of models that may be used, with *, ? and [...]; left out: any."


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise mistake("must be up to 64 of a-z, 0-9, _ and -, with a letter first")
    return value


def _bucket(value: str) -> str:
    if not _BUCKET.fullmatch(value):
        raise mistake("must be up to 64 of a-z, 0-9 and _, with a letter first")
    if value in _RESERVED_BUCKETS:
        raise mistake("must be another name, such as ai_credits: that is a quota of another kind")
    return value


def _permission(value: str) -> str:
    if not _PERMISSION.fullmatch(value):
        raise mistake("must be the name of a permission at Unkey, such as product.voice")
    return value


def _says_something(value: str) -> str:
    # Postgres text cannot hold NUL.
    if not value.strip() or "\0" in value:
        raise mistake("must be text that says something, without NUL")
    return value


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool | float):
        raise mistake(f"must be a number of USD from 0 to {_MOST_USD}")
    return value


def _not_empty(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        raise mistake("would allow nothing: leave it out to allow any model")
    return values


def _unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if twice := [value for value in dict.fromkeys(values) if values.count(value) > 1]:
        raise mistake(f"has {', '.join(repr(str(value)) for value in twice)} twice")
    return values


def _known(part: str, info: ValidationInfo) -> frozenset[str]:
    vendors: Vendors | None = info.context
    assert vendors is not None, "vendors are the context of every validation"
    return vendors[part]


def _no_vendor(vendor: str, part: str, known: Iterable[str]) -> PydanticCustomError:
    return mistake(f"{vendor!r} is not a vendor of {_SOLD[part]}: use {', '.join(sorted(known))}")


def _model(part: str) -> Callable[[Any, ValidationInfo], ModelName]:
    """Parses one model by its exact name."""

    def parse(value: Any, info: ValidationInfo) -> ModelName:
        if not isinstance(value, str):
            raise mistake("must be text such as openai/gpt-4.1")
        try:
            name = ModelName.parse(value)
        except ValueError as error:
            raise mistake(str(error)) from None
        if any(c in value for c in _WILD):
            raise mistake(f"{value!r} is a pattern, and one model is needed here")
        if name.provider not in (known := _known(part, info)):
            raise _no_vendor(name.provider, part, known)
        return name

    return parse


def _pattern(part: str) -> Callable[[str, ValidationInfo], str]:
    """Checks a pattern of models: some vendor must match it."""

    def check(value: str, info: ValidationInfo) -> str:
        if not value.isprintable() or " " in value:
            raise mistake("must be a pattern such as openai/*")
        vendor, _, model = value.lower().partition("/")
        known = _known(part, info)
        if not any(fnmatchcase(one, vendor) for one in known):
            raise _no_vendor(vendor, part, known)
        # A lone "*" also stands for the slash and what follows it.
        if not model and not vendor.endswith("*"):
            raise mistake(f"{value!r} names no model: write {vendor}/* for all of them")
        return value

    return check


def _cheaper(models: dict[ModelName, ModelName]) -> Mapping[str, str]:
    """Which model replaces which, by full names."""
    pairs: dict[str, str] = {}
    for old, new in models.items():
        costly, cheap = str(old).lower(), str(new).lower()
        if old.provider != new.provider:
            raise mistake(f"'{old}': '{new}' is another vendor's, and a call keeps its vendor")
        if costly == cheap:
            raise mistake(f"'{old}': nothing is saved by the same model")
        if costly in pairs:
            raise mistake(f"'{old}' is there twice")
        # Two that replace each other cannot both be the cheaper one, over however many others.
        while cheap in pairs:
            cheap = pairs[cheap].lower()
            if cheap == costly:
                raise mistake(f"'{old}': '{new}' is itself replaced, in the end by '{old}'")
        pairs[costly] = str(new)
    return MappingProxyType(pairs)


Name = Annotated[str, AfterValidator(_name)]
Usd = Annotated[
    Decimal,
    BeforeValidator(_no_boolean),
    Field(strict=False, ge=0, le=_MOST_USD),
    AfterValidator(Decimal.copy_abs),
]
LlmModel = Annotated[ModelName, PlainValidator(_model("llm"))]
SttModel = Annotated[ModelName, PlainValidator(_model("stt"))]
TtsModel = Annotated[ModelName, PlainValidator(_model("tts"))]
RealtimeModel = Annotated[ModelName, PlainValidator(_model("realtime"))]
_Lax = Field(strict=False)  # TOML has lists, and no tuples
LlmPatterns = Annotated[tuple[Annotated[str, AfterValidator(_pattern("llm"))], ...], _Lax]
SttPatterns = Annotated[tuple[Annotated[str, AfterValidator(_pattern("stt"))], ...], _Lax]
TtsPatterns = Annotated[tuple[Annotated[str, AfterValidator(_pattern("tts"))], ...], _Lax]
RealtimePatterns = Annotated[tuple[Annotated[str, AfterValidator(_pattern("realtime"))], ...], _Lax]
Voice = Annotated[str, StringConstraints(max_length=128), AfterValidator(_says_something)]


class _Table(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    def written(self) -> dict[str, Any]:
        """The fields that the file has."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class _ModelsTable(_Table):
    """The models of one part of a bot."""

    default: ModelName | None = None
    allowed: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _default_is_allowed(self) -> Self:
        default = self.default
        if default is not None and not self.models().allows(default.provider, default.model):
            raise mistake(f"the default '{default}' is not among what is allowed")
        return self

    def models(self) -> Models:
        """The table as the product has it."""
        return Models(**self.written())


class LlmTable(_ModelsTable):
    """``[product.llm]``."""

    default: LlmModel | None = Field(
        default=None,
        description=_DEFAULT,
    )
    allowed: Annotated[LlmPatterns, AfterValidator(_not_empty)] | None = Field(
        default=None,
        description=_ALLOWED,
    )


class SttTable(_ModelsTable):
    """``[product.stt]``."""

    default: SttModel | None = Field(
        default=None,
        description=_DEFAULT,
    )
    allowed: Annotated[SttPatterns, AfterValidator(_not_empty)] | None = Field(
        default=None,
        description=_ALLOWED,
    )


class TtsTable(_ModelsTable):
    """``[product.tts]``."""

    default: TtsModel | None = Field(
        default=None,
        description=_DEFAULT,
    )
    allowed: Annotated[TtsPatterns, AfterValidator(_not_empty)] | None = Field(
        default=None,
        description=_ALLOWED,
    )
    voice: Voice | None = Field(default=None, description="The voice of the default model.")


class RealtimeTable(_ModelsTable):
    """``[product.realtime]``."""

    default: RealtimeModel | None = Field(
        default=None,
        description=_DEFAULT,
    )
    allowed: Annotated[RealtimePatterns, AfterValidator(_not_empty)] | None = Field(
        default=None,
        description=_ALLOWED,
    )
    voice: Voice | None = Field(default=None, description="The voice of the default model.")


class SavingTable(_Table):
    """``[product.saving]``."""

    models: Annotated[dict[LlmModel, LlmModel], AfterValidator(_cheaper)] = Field(
        default={}, description="Which model of the same vendor takes the place of which."
    )
    max_tokens: Annotated[int, Field(ge=1, le=32_768)] | None = Field(
        default=None, description="The longest reply, in tokens."
    )
    instruction: (
        Annotated[str, StringConstraints(max_length=32_768), AfterValidator(_says_something)] | None
    ) = Field(default=None, description="A sentence that is added to the messages.")
    prompt_cache: bool = Field(
        default=False, description="Whether the vendor is asked to keep cached prompts for longer."
    )


class ProductTable(_Table):
    """``[product]``; defaults are those of `Product`, which gets the written fields alone."""

    # First, so that the fields of calls know it.
    calls: bool = Field(default=True, description="Whether calls can be joined for it.")
    billable: bool = Field(description="Whether its usage is charged to the team.")
    gateway: bool = Field(
        default=False, description="Whether the LLM gateway takes requests for it."
    )
    permission: Annotated[str, AfterValidator(_permission)] | None = Field(
        default=None,
        description="What a key must be permitted at Unkey to use it; left out: nothing.",
    )
    fallbacks: Annotated[tuple[LlmModel, ...], _Lax, AfterValidator(_unique)] = Field(
        default=(),
        description="What the gateway asks, in order, when the model asked for cannot answer.",
    )
    aliases: Annotated[tuple[Name, ...], _Lax, AfterValidator(_unique)] = Field(
        default=(), description="Other names that a join may use."
    )
    credit_bucket: Annotated[str, AfterValidator(_bucket)] = Field(
        default="", description="The team's quota that its billable cost counts against."
    )
    max_duration_secs: Annotated[int, Field(ge=5, le=_LONGEST_CALL_SECS)] = Field(
        default=0, description="The longest call, 5 to 14400 seconds."
    )
    reservation_usd: Usd = Field(
        default=Decimal(0), description="USD held from the key's budget while a call has used less."
    )
    reservation_secs: Annotated[int, Field(ge=0, le=_LONGEST_CALL_SECS)] = Field(
        default=0, description="Seconds held from the team's quota of call seconds likewise."
    )
    concurrency_per_key: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=0, description="Calls one key may have at once; left out: no limit."
    )
    requests_per_minute: Annotated[int, Field(ge=1, le=1_000_000_000)] = Field(
        default=0,
        description="Requests one key may send the gateway in a minute; left out: no limit.",
    )
    tokens_per_minute: Annotated[int, Field(ge=1, le=100_000_000_000)] = Field(
        default=0,
        description="Tokens of one key's requests in a minute, input and output together.",
    )
    concurrent_requests: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=0, description="Requests to the gateway one key may have at once."
    )
    on_exceeded: OnExceeded = Field(
        default="finish",
        description="When the budget is gone: `finish` running calls, or `wrap_up` and end them.",
    )
    wrap_up_secs: Annotated[int, Field(ge=1, le=120)] = Field(
        default=0, description="Seconds from the goodbye to the end, 1 to 120."
    )
    goodbye: Annotated[
        str, StringConstraints(max_length=1_000), AfterValidator(_says_something)
    ] = Field(default="", description="What the bot says then.")
    early_replies: bool = Field(
        default=True,
        description="Whether the model is asked before the caller's turn is surely over.",
    )
    save_mode: Annotated[SaveMode, Field(strict=False)] = Field(
        default=SaveMode.AUTO, description="`off`, `auto` or `on`, where neither key nor join says."
    )
    unpriced: Unpriced = Field(
        default="refuse",
        description="`refuse` or `allow` a model without a price to a key with a budget.",
    )
    llm: LlmTable = Field(default=LlmTable(), description="Language models.")
    stt: SttTable = Field(default=SttTable(), description="Transcription.")
    tts: TtsTable = Field(default=TtsTable(), description="Voices.")
    realtime: RealtimeTable = Field(default=RealtimeTable(), description="Speech-to-speech.")
    saving: SavingTable = Field(default=SavingTable(), description="What save mode does.")

    @field_validator(*CALL_FIELDS, mode="before")
    @classmethod
    def _takes_calls(cls, value: Any, info: ValidationInfo) -> Any:
        is_used = info.data.get("gateway") and info.field_name in GATEWAY_FIELDS
        if info.data.get("calls") is False and not is_used:
            raise mistake("is for calls, and this product takes none: remove it")
        return value

    @model_validator(mode="after")
    def _gateway_fields_are_of_use(self) -> Self:
        if self.fallbacks and not self.gateway:
            raise mistake("fallbacks are for the gateway, which does not serve this product")
        for rate in RATES:
            if getattr(self, rate) and not self.gateway:
                raise mistake(f"{rate} is for the gateway, which does not serve this product")
        models = self.llm.models()
        for name in self.fallbacks:
            if not models.allows(name.provider, name.model):
                raise mistake(f"the fallback '{name}' is not among what llm allows")
        return self

    def product(self, name: str) -> Product:
        """The product of that name."""
        fields = self.written()
        for part, table in fields.items():
            if isinstance(table, _ModelsTable):
                fields[part] = table.models()
            elif isinstance(table, SavingTable):
                fields[part] = Saving(**table.written())
        return Product(name, **fields)


class InsightsTable(ProductTable):
    """``[insights]``, for which no call is joined."""

    calls: Literal[False]


_TABLES: Mapping[str, type[_Table]] = {
    "llm": LlmTable,
    "stt": SttTable,
    "tts": TtsTable,
    "realtime": RealtimeTable,
    "saving": SavingTable,
}


_NEEDED = {
    "billable": "say whether its usage is charged to the team",
    "calls": "it must be false, since no call is joined for insights",
}


def problems_of(error: ValidationError, product: str) -> Iterator[str]:
    """One sentence for each mistake in a product's table: the field's path, and what is wrong.

    Without the full stop.
    """
    # A vendor may be wrong on both sides of a line.
    yield from dict.fromkeys(_problem(one, product) for one in error.errors())


def name_problem(product: str) -> str | None:
    """What is wrong with the name of a product."""
    try:
        _name(product)
    except PydanticCustomError as error:
        return f"{path_of([product])}: {error.message()}, not {product!r}"
    return None


def _problem(error: ErrorDetails, product: str) -> str:
    keys = [str(key) for key in error["loc"]]
    path = path_of((product, *keys))
    if error["type"] == "missing":
        return f"{path} is missing: {_NEEDED[keys[-1]]}"
    if error["type"] == "extra_forbidden":
        table = _TABLES[keys[0]] if len(keys) > 1 else ProductTable
        return f"{path} is not known: {suggestion(keys[-1], table.model_fields)}"
    return f"{path}: {sentence_of(error)}"
