"""Which bots of one's own a process finds, and what it says of those that are none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from flow.bot.custom.bot_functions import GROUP, find_bots
from flow.bot.join_defaults import Resolver
from flow.domain.calls.join_request import JoinRequest
from flow.domain.products.product import Product, Products
from flow.errors import ConfigurationError, FieldProblem, InvalidInput
from flow.settings import Settings

ONE = "async def bot(call):\n    return [{0!r}]\n"
SEVERAL = "async def one(call): ...\nasync def two(call): ...\nBOTS = {'a': one, 'b': two}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that modules are imported from; what was imported is forgotten."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def module(folder: Path, name: str, text: str) -> Path:
    path = folder.joinpath(*name.split(".")).with_suffix(".py")
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


async def test_a_module_and_a_file_with_a_bot_are_called_by_their_names(folder: Path) -> None:
    module(folder, "acme_bots.booking", ONE.format("booking"))
    path = module(folder, "support", ONE.format("support"))
    bots = find_bots(["acme_bots.booking", str(path)], [])
    assert {name: await bot(None) for name, bot in bots.items()} == {  # type: ignore[arg-type]
        "booking": ["booking"],
        "support": ["support"],
    }


def test_a_module_may_name_several(folder: Path) -> None:
    module(folder, "several_bots", SEVERAL + ONE.format("not asked for"))
    assert set(find_bots(["several_bots"], [])) == {"a", "b"}


def test_a_package_registers_its_bots_as_entry_points(folder: Path) -> None:
    module(folder, "registered_bots", SEVERAL)
    points = [EntryPoint("booking", "registered_bots:one", GROUP)]
    bots = find_bots([], points)
    assert list(bots) == ["booking"]
    assert bots["booking"].__name__ == "one"  # type: ignore[attr-defined]


def test_a_file_may_hold_what_looks_its_module_up(folder: Path) -> None:
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "from typing import ClassVar\n"
        "@dataclass\nclass Table:\n    seats: ClassVar[int] = 4\n" + ONE.format("")
    )
    assert set(find_bots([str(module(folder, "tables", text))], [])) == {"tables"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n", "has no bot: give it an async function called bot, or a mapping BOTS"),
        ("BOTS = {}\n", "has no bot"),
        ("def bot(call): ...\n", "(bot) is no async function that takes a call"),
        ("BOTS = {'a': 1}\n", "(BOTS['a']) is no async function that takes a call"),
        ("import no_such_package\n", "cannot be imported: ModuleNotFoundError: No module named"),
        ("raise ValueError\n", "cannot be imported: ValueError."),
        ("raise SystemExit(2)\n", "cannot be imported: SystemExit: 2."),
        ("def bot(:\n", "cannot be imported: SyntaxError"),
    ],
    ids=["none", "empty", "sync", "no-function", "import", "raises", "exits", "syntax"],
)
def test_what_is_no_bot_stops_the_start_with_a_sentence(text: str, said: str, folder: Path) -> None:
    path = module(folder, "wrong", text)
    with pytest.raises(ConfigurationError) as refused:
        find_bots([str(path)], [])
    assert str(refused.value).startswith(f"FLOW_BOTS: {path} ")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["no_such_bots", "no/such/file.py"])
def test_what_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"FLOW_BOTS: {name} cannot be imported"):
        find_bots([name], [])


def test_an_entry_point_that_leads_nowhere_is_named() -> None:
    with pytest.raises(ConfigurationError, match="the entry point booking = no_such_bots:bot"):
        find_bots([], [EntryPoint("booking", "no_such_bots:bot", GROUP)])


def test_two_bots_of_one_name_are_refused_with_where_both_are(folder: Path) -> None:
    module(folder, "acme_twice.booking", ONE.format(1))
    path = module(folder, "booking", ONE.format(2))
    with pytest.raises(ConfigurationError) as refused:
        find_bots(["acme_twice.booking", str(path)], [])
    assert str(refused.value) == (
        f"Two bots are called 'booking': FLOW_BOTS: acme_twice.booking (bot) and FLOW_BOTS: {path}"
        " (bot)."
    )


@pytest.mark.parametrize(
    ("bots", "said"),
    [
        (("support", "sales"), "'booking' is not one of sales, support"),
        ((), "'booking' is not one of the bots here: there is none with a name"),
    ],
    ids=["others", "none"],
)
def test_a_join_for_a_bot_that_is_none_is_refused_with_those_there_are(
    bots: tuple[str, ...], said: str
) -> None:
    model = {"provider": "openai", "model": "any"}
    defaults = dict.fromkeys(("stt", "llm", "tts", "realtime"), model)
    products = Products([Product("voice_bot", True), Product("insights", True, calls=False)])
    with pytest.raises(InvalidInput) as refused:
        Resolver(products, defaults, ["openai"], bots=bots).resolve(
            JoinRequest.model_validate({"bot": {"name": "booking"}})
        )
    assert refused.value.problems == (FieldProblem("bot.name", said),)


@pytest.mark.parametrize(
    ("value", "names"),
    [("", ()), ("acme.booking", ("acme.booking",)), (" a.py, b ,", ("a.py", "b"))],
    ids=["empty", "one", "several"],
)
def test_the_environment_names_modules_by_commas(
    value: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOW_BOTS", value)
    assert Settings.read().bots == names
