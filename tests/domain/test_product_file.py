"""Product files: what is read, what is refused and why, and the one that is shipped."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flow.bot.vendors import vendors_by_part
from flow.domain.pricing.pricer import Pricer
from flow.domain.products.product import CALL_FIELDS, ModelName, Models, Product, Products, Saving
from flow.domain.products.product_file import read_products
from flow.domain.products.save_mode import SaveMode
from flow.domain.usage.events import Quantities
from flow.errors import ConfigurationError
from tests.events import an_event, an_owner

VENDORS = vendors_by_part()
BOT = "[bot]\nbillable = true\n"
WHOLE = """\
[voice_bot]
billable = true
aliases = ["voice", "voice-bot"]
gateway = true
permission = "product.voice"
fallbacks = ["groq/openai/gpt-oss-20b", "openai/gpt-4.1-mini"]
credit_bucket = "voice_credits"
max_duration_secs = 600
reservation_usd = 0.30
reservation_secs = 0
concurrency_per_key = 10
on_exceeded = "wrap_up"
wrap_up_secs = 120
goodbye = "Bye."
early_replies = false
save_mode = "off"
unpriced = "allow"
[voice_bot.llm]
default = "OpenAI/gpt-4.1"
allowed = ["openai/*", "groq/openai/gpt-oss-?0b"]
[voice_bot.tts]
default = "openai/tts-1"
voice = "ash"
[voice_bot.saving]
models = { "openai/gpt-4.1" = "openai/gpt-4.1-mini" }
max_tokens = 150
instruction = "Be brief."
prompt_cache = true
[insights]
calls = false
billable = false
[insights.llm]
default = "openai/gpt-4.1-mini"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("products")


def read(folder: Path, text: str) -> Products:
    file = folder / "mine.toml"
    file.write_text(text, "utf-8")
    return read_products(file, VENDORS)


def mistakes(folder: Path, text: str) -> list[str]:
    """What is said about ``text``, without the folder that the file is in."""
    with pytest.raises(ConfigurationError) as raised:
        read(folder, text)
    return str(raised.value).replace(f"{folder}/", "").split("\n")


def test_a_whole_file_reads_as_it_is_written(folder: Path) -> None:
    bot, insights = read(folder, WHOLE)
    assert bot == Product(
        name="voice_bot",
        billable=True,
        aliases=("voice", "voice-bot"),
        gateway=True,
        permission="product.voice",
        fallbacks=(
            ModelName("groq", "openai/gpt-oss-20b"),
            ModelName("openai", "gpt-4.1-mini"),
        ),
        credit_bucket="voice_credits",
        max_duration_secs=600,
        reservation_usd=Decimal("0.30"),
        reservation_secs=0,
        concurrency_per_key=10,
        on_exceeded="wrap_up",
        wrap_up_secs=120,
        goodbye="Bye.",
        early_replies=False,
        save_mode=SaveMode.OFF,
        unpriced="allow",
        llm=Models(ModelName("openai", "gpt-4.1"), ("openai/*", "groq/openai/gpt-oss-?0b")),
        tts=Models(ModelName("openai", "tts-1"), voice="ash"),
        saving=Saving({"openai/gpt-4.1": "openai/gpt-4.1-mini"}, 150, "Be brief.", True),
    )
    assert insights == Product(
        "insights",
        billable=False,
        calls=False,
        llm=Models(ModelName("openai", "gpt-4.1-mini")),
    )


def test_what_is_left_out_has_its_default(folder: Path) -> None:
    assert next(iter(read(folder, BOT))) == Product("bot", billable=True)


def test_the_operator_s_file_replaces_the_shipped_one_but_for_insights(folder: Path) -> None:
    found = read(folder, BOT)
    assert [product.name for product in found] == ["bot", "insights"]
    assert found.insights == read_products(None, VENDORS).insights


def test_a_product_may_be_kept_without_taking_calls(folder: Path) -> None:
    found = read(folder, BOT + "[old]\nbillable = true\ncalls = false\n")
    assert [product.calls for product in found] == [True, False, False]


@pytest.mark.parametrize(
    "usd", ['"0.10"', "0.10", '"1e-1"', "1e-1"], ids=["text", "number", "text e", "number e"]
)
def test_money_is_exact_whether_it_is_text_or_a_number(folder: Path, usd: str) -> None:
    product = next(iter(read(folder, f"{BOT}reservation_usd = {usd}")))
    assert product.reservation_usd == Decimal("0.1")


def test_nothing_reserved_has_no_sign(folder: Path) -> None:
    product = next(iter(read(folder, f'{BOT}reservation_usd = "-0.00"')))
    assert product.to_json()["reservation_usd"] == "0.00"


def test_a_file_may_begin_with_a_byte_order_mark(folder: Path) -> None:
    assert len(read(folder, "\ufeff" + BOT)) == 2


MISTAKES: dict[str, tuple[str, str]] = {
    # what: the file, what is said of it
    "an unknown field": (
        BOT + "reservation_us = 1",
        "bot.reservation_us is not known: did you mean reservation_usd?",
    ),
    "an unknown table": (
        BOT + "[bot.llms]\ndefault = 1",
        "bot.llms is not known: did you mean llm?",
    ),
    "a field nothing like another": (
        BOT + "[bot.llm]\nzzz = 1",
        "bot.llm.zzz is not known: use default, allowed.",
    ),
    "a field in quotes": (BOT + '"max secs" = 3', 'bot."max secs" is not known'),
    "a voice without a voice": (
        BOT + '[bot.llm]\nvoice = "ash"',
        "bot.llm.voice is not known: use default, allowed.",
    ),
    "billable is missing": (
        "# mine\n[bot]",
        "bot.billable is missing: say whether its usage is charged to the team.",
    ),
    "billable is text": (
        '[bot]\nbillable = "yes"',
        "bot.billable: must be a valid boolean, not 'yes'.",
    ),
    "billable is a number": (
        "[bot]\nbillable = 1",
        "bot.billable: must be a valid boolean, not 1.",
    ),
    "calls is text": (BOT + 'calls = "no"', "bot.calls: must be a valid boolean, not 'no'."),
    "a product that is no table": (
        BOT + "[x]\nbillable = true\n[y]\n",
        "y.billable is missing: say whether its usage is charged to the team.",
    ),
    "a value before the tables": (
        "billable = true\n" + BOT,
        "billable is no product: each is one table, such as [voice_bot].",
    ),
    "a list of tables": (
        "[[old]]\nbillable = true\n" + BOT,
        "old is no product: each is one table, such as [voice_bot].",
    ),
    "a name with capitals": (
        "[Bot]\nbillable = true",
        "Bot: must be up to 64 of a-z, 0-9, _ and -, with a letter first, not 'Bot'.",
    ),
    "a name too long": (f"[b{'x' * 64}]\nbillable = true", f"b{'x' * 64}: must be up to 64 of"),
    "an alias with a blank": (
        BOT + 'aliases = ["a b"]',
        "bot.aliases.0: must be up to 64 of a-z, 0-9, _ and -, with a letter first, not 'a b'.",
    ),
    "an alias that is a number": (
        BOT + "aliases = [\n1]",
        "bot.aliases.0: must be text, not 1.",
    ),
    "aliases as text": (BOT + 'aliases = "b"', "bot.aliases: must be a list, not 'b'."),
    "an alias twice": (
        BOT + 'aliases = [\n"b",\n"b"]',
        "bot.aliases: has 'b' twice.",
    ),
    "an alias that is its own name": (
        BOT + 'aliases = ["bot"]',
        "bot.aliases: 'bot' is the product 'bot' already.",
    ),
    "an alias that is another's name": (
        BOT + 'aliases = ["x"]\n[x]\nbillable = true',
        "bot.aliases: 'x' is the product 'x' already.",
    ),
    "an alias of two products": (
        BOT + 'aliases = ["b"]\n[x]\nbillable = true\naliases = ["c",\n"b"]',
        "x.aliases: 'b' is the product 'bot' already.",
    ),
    "an alias that insights goes by": (
        BOT + 'aliases = ["insights"]',
        "bot.aliases: 'insights' is the product 'insights' already.",
    ),
    "a bucket with a dash": (
        BOT + 'credit_bucket = "ai-x"',
        "bot.credit_bucket: must be up to 64 of a-z, 0-9 and _, with a letter first, not",
    ),
    "a bucket that is a number": (
        BOT + "credit_bucket = 1",
        "bot.credit_bucket: must be text, not 1.",
    ),
    "a bucket of seconds": (
        BOT + 'credit_bucket = "call_seconds"',
        "bot.credit_bucket: must be another name, such as ai_credits: that is a quota of",
    ),
    "fallbacks of nothing": (
        BOT + 'fallbacks = ["openai/gpt-4.1"]',
        "bot: fallbacks are for the gateway, which does not serve this product",
    ),
    "a fallback twice": (
        BOT + 'gateway = true\nfallbacks = ["openai/a", "openai/a"]',
        "bot.fallbacks: has 'openai/a' twice",
    ),
    "a fallback that is not allowed": (
        BOT + 'gateway = true\nfallbacks = ["openai/a"]\n[bot.llm]\nallowed = ["groq/*"]',
        "bot: the fallback 'openai/a' is not among what llm allows",
    ),
    "no permission": (BOT + 'permission = "a b"', "bot.permission: must be the name of a"),
    "a bucket of calls": (
        BOT + 'credit_bucket = "concurrent_calls"',
        "bot.credit_bucket: must be another name, such as ai_credits: that is a quota of",
    ),
    "a call too short": (
        BOT + "max_duration_secs = 4",
        "bot.max_duration_secs: must be greater than or equal to 5, not 4.",
    ),
    "a call too long": (BOT + "max_duration_secs = 14401", "bot.max_duration_secs: must be"),
    "half a second": (
        BOT + "max_duration_secs = 7.5",
        "bot.max_duration_secs: must be a valid integer, not 7.5.",
    ),
    "true seconds": (
        BOT + "reservation_secs = true",
        "bot.reservation_secs: must be a valid integer, not true.",
    ),
    "seconds below zero": (BOT + "reservation_secs = -1", "bot.reservation_secs: must be"),
    "no calls at once": (BOT + "concurrency_per_key = 0", "bot.concurrency_per_key: must be"),
    "no time to say goodbye": (BOT + "wrap_up_secs = 0", "bot.wrap_up_secs: must be"),
    "a long goodbye": (
        BOT + "wrap_up_secs = 121",
        "bot.wrap_up_secs: must be less than or equal to 120, not 121.",
    ),
    "nothing to say": (BOT + 'goodbye = " "', "bot.goodbye: must be text"),
    "a goodbye with NUL": (BOT + 'goodbye = "a\\u0000"', "bot.goodbye: must be text"),
    "an endless goodbye": (
        BOT + f'goodbye = "{"x" * 1001}"',
        "bot.goodbye: must have at most 1000 characters",
    ),
    "another end": (
        BOT + 'on_exceeded = "stop"',
        "bot.on_exceeded: must be 'finish' or 'wrap_up', not 'stop'.",
    ),
    "another save mode": (
        BOT + "save_mode = true",
        "bot.save_mode: must be 'off', 'auto' or 'on', not true.",
    ),
    "another word about unpriced models": (
        BOT + 'unpriced = "yes"',
        "bot.unpriced: must be 'refuse' or 'allow', not 'yes'.",
    ),
    "money below zero": (
        BOT + 'reservation_usd = "-0.01"',
        "bot.reservation_usd: must be greater than or equal to 0, not '-0.01'.",
    ),
    "money in words": (BOT + 'reservation_usd = "cheap"', "bot.reservation_usd: must be"),
    "money without end": (BOT + "reservation_usd = inf", "bot.reservation_usd: must be"),
    "money beyond counting": (
        BOT + "reservation_usd = 1e99999999999999999999",
        "bot.reservation_usd: must be",
    ),
    "money that is no number": (BOT + 'reservation_usd = "NaN"', "bot.reservation_usd: must"),
    "money that is true": (BOT + "reservation_usd = true", "bot.reservation_usd: must be"),
    "models as text": (
        BOT + 'llm = "openai/gpt-4.1"',
        "bot.llm: must be a table, not 'openai/gpt-4.1'.",
    ),
    "an unknown vendor": (
        BOT + '[bot.llm]\n# best\ndefault = "openia/gpt-4.1"',
        "bot.llm.default: 'openia' is not a vendor of language models: use anthropic, ",
    ),
    "a vendor without voices": (
        BOT + '[bot.tts]\ndefault = "groq/x"',
        "bot.tts.default: 'groq' is not a vendor of voices: use ",
    ),
    "a vendor without ears": (
        BOT + '[bot.stt]\nallowed = ["groq/*"]',
        "bot.stt.allowed.0: 'groq' is not a vendor of transcription: use ",
    ),
    "a default without vendor": (
        BOT + '[bot.llm]\ndefault = "gpt-4.1"',
        "bot.llm.default: 'gpt-4.1' is no provider/model such as openai/gpt-4.1.",
    ),
    "a default that is a number": (BOT + "[bot.llm]\ndefault = 4", "bot.llm.default: must be"),
    "a default that is a pattern": (
        BOT + '[bot.llm]\ndefault = "openai/gpt-*"',
        "bot.llm.default: 'openai/gpt-*' is a pattern",
    ),
    "a default that is not allowed": (
        BOT + '[bot.llm]\nallowed = ["groq/*"]\ndefault = "openai/gpt-4.1"',
        "bot.llm: the default 'openai/gpt-4.1' is not among what is allowed.",
    ),
    "an unknown vendor's pattern": (
        BOT + '[bot.llm]\nallowed = [\n  "openai/*", # ours\n  "opnai/*",\n]',
        "bot.llm.allowed.1: 'opnai' is not a vendor of language models: use anthropic,",
    ),
    "a pattern of no known vendor": (
        BOT + '[bot.llm]\nallowed = ["gpt-4*"]',
        "bot.llm.allowed.0: 'gpt-4*' is not a vendor of language models: use anthropic,",
    ),
    "a pattern without model": (
        BOT + '[bot.llm]\nallowed = ["openai"]',
        "bot.llm.allowed.0: 'openai' names no model: write openai/* for all of them.",
    ),
    "a pattern that is a number": (
        BOT + "[bot.llm]\nallowed = [4]",
        "bot.llm.allowed.0: must be text, not 4.",
    ),
    "a pattern with a blank": (
        BOT + '[bot.llm]\nallowed = ["openai/ *"]',
        "bot.llm.allowed.0: must be a pattern such as openai/*, not 'openai/ *'.",
    ),
    "nothing allowed": (BOT + "[bot.llm]\nallowed = []", "bot.llm.allowed: would allow nothing"),
    "allowed as text": (
        BOT + '[bot.llm]\nallowed = "openai/*"',
        "bot.llm.allowed: must be a list, not 'openai/*'.",
    ),
    "saving over two vendors": (
        BOT + '[bot.saving.models]\n"openai/gpt-4.1" = "groq/x"',
        "bot.saving.models: 'openai/gpt-4.1': 'groq/x' is another vendor's, and a call keeps",
    ),
    "saving on itself": (
        BOT + '[bot.saving]\nmodels = { "openai/a" = "openai/A" }',
        "bot.saving.models: 'openai/a': nothing is saved by the same model.",
    ),
    "saving in a circle": (
        BOT + "[bot.saving.models]\n"
        '"openai/a" = "openai/b"\n"openai/b" = "openai/c"\n"openai/c" = "openai/a"',
        "bot.saving.models: 'openai/c': 'openai/a' is itself replaced, in the end by",
    ),
    "saving twice": (
        BOT + '[bot.saving.models]\n"openai/a" = "openai/b"\n"openai/A" = "openai/c"',
        "bot.saving.models: 'openai/A' is there twice.",
    ),
    "saving for a pattern": (
        BOT + '[bot.saving.models]\n"openai/*" = "openai/b"',
        "bot.saving.models.\"openai/*\": 'openai/*' is a pattern, and one model is needed here.",
    ),
    "saving by an unknown vendor": (
        BOT + '[bot.saving.models]\n"opnai/a" = "opnai/b"',
        "bot.saving.models.\"opnai/a\": 'opnai' is not a vendor of language models",
    ),
    "a dotted key without quotes": (
        BOT + '[bot.saving.models]\nopenai.x = "openai/b"',
        "bot.saving.models.openai: 'openai' is no provider/model",
    ),
    "pairs as a list": (
        BOT + '[bot.saving]\nmodels = ["openai/a"]',
        "bot.saving.models: must be a table, not ['openai/a'].",
    ),
    "a reply of nothing": (BOT + "[bot.saving]\nmax_tokens = 0", "bot.saving.max_tokens: must"),
    "a reply of everything": (BOT + "saving.max_tokens = 32769", "bot.saving.max_tokens: must"),
    "an empty instruction": (BOT + '[bot.saving]\ninstruction = ""', "bot.saving.instruction"),
    "a cache in words": (BOT + '[bot.saving]\nprompt_cache = "1h"', "bot.saving.prompt_cache"),
    "insights with calls": (
        BOT + "[insights]\nbillable = true\ncalls = true",
        "insights.calls: must be false",
    ),
    "insights that does not say": (
        BOT + "[insights]\nbillable = true",
        "insights.calls is missing: it must be false, since no call is joined for insights.",
    ),
    "insights without billable": (
        BOT + "[insights]\ncalls = false",
        "insights.billable is missing: say whether its usage is charged to the team.",
    ),
}


@pytest.mark.parametrize(("text", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_told_with_its_file_and_field_and_nothing_else_is(
    folder: Path, text: str, said: str
) -> None:
    told = mistakes(folder, text)
    field = re.split(": | is ", said)[0]
    assert any(one.startswith(f"mine.toml: {said}") for one in told), told
    assert all(one.startswith(f"mine.toml: {field}") for one in told), told
    assert all(one.endswith((".", "?")) for one in told), told
    assert len(set(told)) == len(told)


@pytest.mark.parametrize("field", CALL_FIELDS)
def test_a_product_without_calls_has_no_use_for_what_a_call_has(folder: Path, field: str) -> None:
    text = f"{BOT}[insights]\nbillable = true\ncalls = false\n{field} = 60"
    assert mistakes(folder, text) == [
        f"mine.toml: insights.{field}: is for calls, and this product takes none: remove it."
    ]


@pytest.mark.parametrize(
    "text", ["", "# nothing", "[insights]\nbillable = true\ncalls = false"], ids=range(3)
)
def test_a_file_without_a_product_that_takes_calls_is_refused(folder: Path, text: str) -> None:
    assert mistakes(folder, text) == [
        "mine.toml: no product takes calls: write a table such as [voice_bot]."
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[bot\n", "line 1"),
        ("[bot]\nbillable = yes", "line 2"),
        (BOT + BOT, "line 3"),
        (BOT + "wrap_up_secs = 1\nwrap_up_secs = 2\n", "line 4"),
        (BOT + "reservation_secs = " + "9" * 5000, ""),
        (BOT + "aliases = " + "[" * 5000, ""),
    ],
    ids=["a bracket", "no value", "a table twice", "a key twice", "long", "deep"],
)
def test_what_is_not_toml_is_refused_with_its_line(folder: Path, text: str, line: str) -> None:
    (told,) = mistakes(folder, text)
    assert told.startswith("mine.toml is not TOML: ")
    assert line in told


def test_every_mistake_is_told_at_once(folder: Path) -> None:
    text = '[a]\nsave_mode = "x"\n[b]\nwrap_up_secs = 0\nllm.default = "x/y"\nllm.allowed = ["x/*"]'
    assert [re.split(": | is ", told)[1] for told in mistakes(folder, text)] == [
        "a.billable",
        "a.save_mode",
        "b.billable",
        "b.wrap_up_secs",
        "b.llm.default",
        "b.llm.allowed.0",
    ]


def test_a_wrong_pattern_does_not_make_the_default_wrong_too(folder: Path) -> None:
    text = BOT + 'llm.default = "groq/x"\nllm.allowed = ["openai/*", "grok/*"]'
    (told,) = mistakes(folder, text)
    assert told.startswith("mine.toml: bot.llm.allowed.1: 'grok' is not a vendor")


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"], ids=["missing", "no text"])
def test_a_file_that_cannot_be_read_is_a_configuration_error(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "mine.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"mine\.toml cannot be read"):
        read_products(file, VENDORS)


WORDS = st.text(st.characters(codec="utf-8", categories=["L", "P", "S"]), min_size=1, max_size=9)
MODEL_WORDS = st.text("abcXYZ019.-:/", min_size=1, max_size=12)
LLMS = st.builds("{}/{}".format, st.sampled_from(sorted(VENDORS["llm"])), MODEL_WORDS)
SAVINGS = st.fixed_dictionaries(
    {},
    optional={
        # every replacement is shorter, so none leads back
        "models": st.dictionaries(LLMS.map(lambda name: f"{name}+"), st.none(), max_size=4).map(
            lambda models: {name: name.lower()[:-1] for name in models}
        ),
        "max_tokens": st.integers(1, 32_768),
        "instruction": WORDS,
        "prompt_cache": st.booleans(),
    },
).filter(lambda s: len({name.lower() for name in s.get("models", ())}) == len(s.get("models", ())))
SHARED = {
    "credit_bucket": st.text("az09_", max_size=63).map("b{}".format),
    "save_mode": st.sampled_from(["off", "auto", "on"]),
    "unpriced": st.sampled_from(["refuse", "allow"]),
    "saving": SAVINGS,
}
LLM = st.fixed_dictionaries({}, optional={"default": LLMS, "allowed": st.just(["*/*"])})
CALL = {
    "calls": st.just(True),
    "max_duration_secs": st.integers(5, 14_400),
    "reservation_usd": st.decimals(0, 1_000_000, places=9).map("{:f}".format),
    "reservation_secs": st.integers(0, 14_400),
    "concurrency_per_key": st.integers(1, 1_000),
    "on_exceeded": st.sampled_from(["finish", "wrap_up"]),
    "wrap_up_secs": st.integers(1, 120),
    "goodbye": WORDS,
    "early_replies": st.booleans(),
    "stt": st.just({"default": "openai/whisper-1"}),
    "tts": st.fixed_dictionaries({"voice": WORDS}),
}
NAMES = st.lists(
    st.text("az09_-", max_size=63).map("b{}".format), min_size=2, max_size=5, unique=True
)


@st.composite
def files(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    """The data of a valid file: some products with calls, and insights."""
    names = draw(NAMES)
    called = names[: draw(st.integers(1, len(names)))]
    aliases = iter(names[len(called) :])
    needed = {"billable": st.booleans()}
    found = {}
    for name in called:
        found[name] = draw(st.fixed_dictionaries(needed, optional={**SHARED, **CALL, "llm": LLM}))
        if (alias := next(aliases, None)) is not None:
            found[name]["aliases"] = [alias]
    insights = {**needed, "calls": st.just(False)}
    found["insights"] = draw(st.fixed_dictionaries(insights, optional={**SHARED, "llm": LLM}))
    return found


def written(data: dict[str, Any], headers: bool) -> str:
    """The data as TOML, its inner tables under headers of their own or on one line."""
    lines = []
    for name, table in data.items():
        inner = {k: v for k, v in table.items() if isinstance(v, dict) and headers}
        lines.append(f"[{name}]")
        lines += [f"{k} = {value(v)}" for k, v in table.items() if k not in inner]
        for key, fields in inner.items():
            lines.append(f"[ {name} . {key} ]")
            lines += [f'"{k}" = {value(v)}' for k, v in fields.items()]
    return "\n".join(lines)


def value(data: Any) -> str:
    if isinstance(data, dict):
        return "{" + ", ".join(f"{value(k)} = {value(v)}" for k, v in data.items()) + "}"
    return json.dumps(data, ensure_ascii=False)


def expected(name: str, table: dict[str, Any]) -> dict[str, Any]:
    """What `Product.to_json` says of a product that was written like this."""
    base = replace(Product(name, billable=True), calls=table.get("calls", True)).to_json()
    for field, said in table.items():
        base[field] = {**base[field], **said} if isinstance(said, dict) else said
    if "models" in table.get("saving", {}):
        models = table["saving"]["models"].items()
        base["saving"]["models"] = {costly.lower(): cheap for costly, cheap in models}
    return base


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(data=files(), headers=st.booleans())
def test_any_valid_file_reads_back_to_what_it_says(
    folder: Path, data: dict[str, Any], headers: bool
) -> None:
    found = read(folder, written(data, headers))
    assert [product.to_json() for product in found] == [
        expected(name, table) for name, table in data.items()
    ]
    for name, table in data.items():
        for alias in table.get("aliases", ()):
            assert found.for_call(alias).name == name
        for costly, cheap in table.get("saving", {}).get("models", {}).items():
            vendor, model = costly.split("/", 1)
            product = next(product for product in found if product.name == name)
            assert f"{vendor}/{product.saving.cheaper(vendor, model)}" == cheap


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(data=files(), headers=st.booleans(), pick=st.randoms(use_true_random=False))
def test_a_mistake_anywhere_is_told_with_its_table(
    folder: Path, data: dict[str, Any], headers: bool, pick: Any
) -> None:
    lines = written(data, headers).split("\n")
    after = pick.choice([i for i, line in enumerate(lines, 1) if line.startswith("[")])
    table = lines[after - 1].strip("[] ").replace(" ", "")
    lines.insert(after, "qqqq = 1")
    (told,) = (one for one in mistakes(folder, "\n".join(lines)) if "qqqq" in one)
    assert told.startswith(f"mine.toml: {table}.qqqq is not known: ")


SHIPPED = read_products(None, VENDORS)
MILLION = 1_000_000


def test_the_shipped_file_has_a_bot_to_sell_one_to_try_and_the_step_after_a_call() -> None:
    assert {p.name: (p.billable, p.calls) for p in SHIPPED} == {
        "voice_bot": (True, True),
        "playground": (False, True),
        "gateway": (True, False),
        "insights": (True, False),
    }
    assert [product.name for product in SHIPPED if product.gateway] == ["gateway"]


def test_the_shipped_bot_leaves_its_models_to_the_environment() -> None:
    bot = SHIPPED.for_call("voice_bot")
    assert [bot.llm, bot.stt, bot.tts, SHIPPED.insights.llm] == [Models()] * 4


@pytest.fixture(scope="module")
def pricer() -> Pricer:
    return Pricer.read()


def usd(pricer: Pricer, name: str, quantities: Quantities) -> Decimal:
    """What this much of a language model costs now."""
    model = ModelName.parse(name)
    event = an_event(
        an_owner(team_id="team"),
        provider=model.provider,
        model=model.model,
        quantities=quantities,
        occurred_at=datetime(2026, 11, 15, tzinfo=UTC),
    )
    cost = pricer.price(event).cost
    assert cost is not None, f"{name} has no price"
    return cost.total


@pytest.mark.parametrize(
    "quantities",
    [
        Quantities(input_tokens=MILLION),
        Quantities(cache_read_tokens=MILLION),
        Quantities(output_tokens=MILLION),
    ],
    ids=["input", "cache", "output"],
)
@pytest.mark.parametrize(
    ("costly", "cheap"),
    sorted({pair for product in SHIPPED for pair in product.saving.models.items()}),
)
def test_every_shipped_saving_is_cheaper_in_each_part(
    pricer: Pricer, costly: str, cheap: str, quantities: Quantities
) -> None:
    assert 0 < usd(pricer, cheap, quantities) < usd(pricer, costly, quantities)


@pytest.mark.parametrize("name", SHIPPED.for_call("playground").llm.allowed or ())
def test_what_is_free_to_try_costs_no_more_than_its_default(pricer: Pricer, name: str) -> None:
    default = SHIPPED.for_call("playground").llm.default
    for tokens in (Quantities(input_tokens=MILLION), Quantities(output_tokens=MILLION)):
        assert usd(pricer, name, tokens) <= usd(pricer, str(default), tokens)
