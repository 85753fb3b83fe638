"""`flow agents ...`: agents in files, stored in versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.operate.agent_files import difference, read, text_of
from tests.operate.conftest import Terminal

AGENT = """\
name: reservations
save_mode: on
bot:
  system_prompt: |
    You take reservations for {{restaurant}}.
    It is {{flow.date}}.
  greeting: Hello {{name|and welcome}}!
  llm: {temperature: 0.5}
metadata: {country: no, since: 2026-11-30}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "agent.yaml"
    path.write_text(AGENT)
    return path


async def pushed(terminal: Terminal, file: Path, *args: str) -> dict[str, Any]:
    done = await terminal.flow("agents", "push", str(file), "--team", "acme", "--json", *args)
    told: dict[str, Any] = done.json
    return told


async def test_only_what_changed_makes_a_version(terminal: Terminal, file: Path) -> None:
    would = await pushed(terminal, file, "--dry-run")
    assert (would["id"], would["changed"]) == (None, True)
    first = await pushed(terminal, file)
    assert (first["version"], first["changed"]) == (1, True)
    again = await pushed(terminal, file)
    assert again == first | {"changed": False, "difference": []}
    file.write_text(AGENT.replace("Hello", "Good evening"))
    would = await pushed(terminal, file, "--dry-run")
    assert (would["version"], would["changed"]) == (1, True)
    changed = await pushed(terminal, file)
    assert (changed["id"], changed["version"]) == (first["id"], 2)
    assert [line for line in changed["difference"] if line[0] in "+-"] == [
        "-  greeting: Hello {{name|and welcome}}!",
        "+  greeting: Good evening {{name|and welcome}}!",
    ]


async def test_an_agent_whose_calls_are_recorded_is_pushed_where_calls_are_recorded(
    terminal: Terminal, file: Path, tmp_path: Path
) -> None:
    file.write_text(f"{AGENT}recording: {{retention_days: 30}}\n")
    refused = await terminal.flow("agents", "push", str(file), "--team", "acme")
    assert "calls are not recorded here" in refused.failure
    terminal.env["FLOW_RECORDINGS_URL"] = f"file://{tmp_path}"
    await pushed(terminal, file)
    shown = (await terminal.flow("agents", "show", "reservations", "--team", "acme", "--json")).json
    assert shown["recording"] == {"retention_days": 30}
    file.write_text(f"{AGENT}recording: {{retention_days: 31}}\n")
    refused = await terminal.flow("agents", "push", str(file), "--team", "acme")
    assert "recording.retention_days" in refused.failure


async def test_what_is_shown_can_be_pushed_again(terminal: Terminal, file: Path) -> None:
    await pushed(terminal, file)
    shown = (await terminal.flow("agents", "show", "reservations")).out
    assert shown.startswith("# agent ")
    file.write_text(shown)
    assert not (await pushed(terminal, file))["changed"]
    (as_json := file.with_suffix(".json")).write_text(json.dumps(read(file)))
    assert not (await pushed(terminal, as_json))["changed"]


async def test_agents_are_listed_shown_and_archived(terminal: Terminal, file: Path) -> None:
    assert "no agents yet" in (await terminal.flow("agents", "list")).out
    await terminal.database.resolve_api_key("key_ada", "acme", "Ada")
    await terminal.flow("agents", "push", str(file), "--key", "Ada")
    listed = (await terminal.flow("agents", "list", "--json", "--key", "Ada")).json["agents"]
    assert [(one["name"], one["team_id"], one["save_mode"]) for one in listed] == [
        ("reservations", "acme", "on")
    ]
    assert listed[0]["metadata"] == {"country": "no", "since": "2026-11-30"}
    assert "reservations" in (await terminal.flow("agents", "list", "--limit", "201")).out
    assert (await terminal.flow("agents", "list", "--team", "other", "--json")).json == {
        "agents": []
    }
    done = await terminal.flow("agents", "archive", listed[0]["id"], "--json")
    assert done.json["archived_at"] is not None
    assert (await terminal.flow("agents", "list", "--json")).json == {"agents": []}
    assert (await pushed(terminal, file))["id"] != listed[0]["id"]


@pytest.mark.parametrize(
    ("url", "told"), [("http://127.0.0.1:9000/", True), ("ftp://127.0.0.1/", False)]
)
async def test_who_may_not_reach_this_machine_is_told_what_allows_it(
    terminal: Terminal, file: Path, url: str, told: bool
) -> None:
    file.write_text(f"{AGENT}webhook_url: {url}\n")
    said = (await terminal.flow("agents", "push", str(file), "--team", "acme")).failure
    assert "webhook_url: must be an" in said
    assert ("FLOW_WEBHOOKS_ALLOW_PRIVATE" in said) == told
    allowed = {"FLOW_DEBUG": "true", "FLOW_WEBHOOKS_ALLOW_PRIVATE": "true"}
    done = await terminal.flow("agents", "push", str(file), "--team", "acme", **allowed)
    assert (done.code == 0) == told


async def test_no_number_rings_an_agent_that_needs_variables(
    terminal: Terminal, file: Path
) -> None:
    await terminal.database.resolve_api_key("key_ada", "acme", "Ada")
    await pushed(terminal, file)
    add = ("numbers", "add", "+4930123456", "--key", "Ada", "--agent", "reservations")
    said = (await terminal.flow(*add)).failure
    assert "agent: its bot.system_prompt needs the variable 'restaurant'" in said
    assert (await terminal.flow("numbers", "list", "--json")).json == {"numbers": []}
    own = "{{restaurant|Luigi}} {{flow.caller_number|}} {{flow.called_number}}"
    file.write_text(AGENT.replace("{{restaurant}}", own))
    await pushed(terminal, file)
    assert "agent reservations" in (await terminal.flow(*add)).out


async def test_the_headers_of_tools_are_shown_where_that_is_asked(
    terminal: Terminal, file: Path
) -> None:
    tool = "\ntools: [{type: mcp, url: 'https://mcp.example.com/', headers: {X-Key: first}}]\n"
    file.write_text(AGENT + tool)
    assert "first" not in str(await pushed(terminal, file))
    file.write_text(AGENT + tool.replace("first", "second"))
    changed = await pushed(terminal, file)
    assert (changed["version"], changed["difference"]) == (2, [])
    show = ("agents", "show", "reservations")
    assert "second" not in (await terminal.flow(*show)).out
    file.write_text((await terminal.flow(*show, "--secrets")).out)
    assert "second" in file.read_text()
    assert not (await pushed(terminal, file))["changed"]


FLOW = """\
tools: [{type: http, name: book, description: Books., url: 'https://tools.example.com/'}]
bot:
  flow:
    initial_node: greet
    nodes:
      greet:
        task_messages: [{role: developer, content: Greet the caller.}]
        functions: [{name: book, transition_to: end}]
"""
REFUSED = {
    "no YAML": ("{", "is no YAML or JSON"),
    "no object": ("- a", "holds no agent"),
    "no name": ("bot: {}", "name: Field required"),
    "an unknown field": ("name: x\nnonsense: 1", "nonsense: is not a field of an agent"),
    "a name twice": ("name: x\nbot: {}\nbot: {}", "'bot' is there twice"),
    "a placeholder that is none": ("name: x\nbot: {greeting: '{{a b}}'}", "bot.greeting: has"),
    "a vendor that is none": ("name: x\nbot: {llm: {provider: x}}", "bot.llm.provider: 'x' is not"),
    "a product that is none": ("name: x\nproduct: y", "product"),
    "a webhook inside": ("name: x\nwebhook_url: https://10.0.0.1/", "webhook_url:"),
    "a schema that is none": (
        "name: x\ninsights: {schema: {type: object, properties: {a: {type: x}}}}",
        "insights.schema:",
    ),
    "a tool inside": (
        "name: x\ntools: [{type: mcp, url: 'https://10.0.0.1/'}]",
        " tools.0.url: must lead",
    ),
    "a tool of a schema that is none": (
        "name: x\ntools: [{type: end_call}, {type: http, name: find, description: Finds,"
        " url: 'https://tools.example.com/',"
        " parameters: {type: object, properties: {a: {type: x}}}}]",
        " tools.1.parameters: not a JSON Schema",
    ),
    "a flow that leads nowhere": (
        f"{FLOW}name: x",
        "bot.flow.nodes.greet.functions.0.transition_to: there is no node 'end'",
    ),
    "a flow that is code": (
        f"{FLOW}name: x".replace("book", "book, handler: mine"),
        "bot.flow.nodes.greet.functions.0.handler: is code of your own",
    ),
    "a flow of speech to speech": (
        f"{FLOW}  realtime: {{}}\nname: x".replace("transition_to: end", "transition_to: greet"),
        "bot.flow: is for a bot of stt, llm and tts",
    ),
    "a flow of a bot with a name": (
        f"{FLOW}  name: own\nname: x".replace("transition_to: end", "transition_to: greet"),
        "bot.flow: is not for a bot with a name",
    ),
}


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
async def test_what_cannot_be_an_agent_is_refused(
    terminal: Terminal, file: Path, text: str, said: str
) -> None:
    file.write_text(text)
    done = await terminal.flow("agents", "push", str(file), "--team", "acme")
    assert said in done.failure
    assert (await terminal.flow("agents", "list", "--json")).json == {"agents": []}


async def test_whose_agent_it_is_must_be_said(terminal: Terminal, file: Path) -> None:
    push = ("agents", "push", str(file))
    assert "--team TEAM" in (await terminal.flow(*push)).failure
    both = await terminal.flow(*push, "--team", "a", "--key", "b")
    assert "exclude each other" in both.failure
    for team in ("acme", "other"):
        await terminal.flow(*push, "--team", team)
    assert "say whose" in (await terminal.flow("agents", "show", "reservations")).failure


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(["on", "no", "2026-11-30", "1e3", "0x1", "~", "=", "<<", "1_0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_a_definition_as_yaml_is_read_as_the_same(
    tmp_path_factory: pytest.TempPathFactory, definition: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("agents") / "agent.yaml"
    path.write_text(text_of(definition), "utf-8")
    found = read(path)
    assert found == definition
    assert difference(found, definition) == []
