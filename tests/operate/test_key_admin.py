"""`flow keys`: every change is made at Unkey and in the database, or in neither."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from decimal import Decimal

import psycopg
import pytest

from flow.domain.products.save_mode import SaveMode
from flow.errors import Refused
from flow.sandbox.faults import Fault
from tests.operate.conftest import Terminal

CREATE = "POST /v2/keys.createKey"
DELETE = "POST /v2/keys.deleteKey"
GET = "POST /v2/keys.getKey"


async def test_a_created_key_verifies_and_is_bound_to_its_row(terminal: Terminal) -> None:
    made = await terminal.create(
        "--budget", "50", "--save-mode", "auto", "--permission", "budget.override",
        "--expires", "2090-01-01",
    )  # fmt: skip
    verified = await terminal.verify(made["secret"])
    assert (verified.unkey_key_id, verified.team_id, verified.name) == (
        made["unkey_key_id"],
        "acme",
        "Ada",
    )
    assert verified.permissions == {"budget.override"}
    assert made["secret"].startswith("flow_")
    row = await terminal.database.operating.get_api_key(made["unkey_key_id"])
    assert str(row.key.id) == made["api_key_id"]
    assert row.budget.cap_usd == Decimal(50)
    assert row.save_mode is SaveMode.AUTO
    expires = terminal.unkey.key(made["unkey_key_id"]).expires
    assert expires == datetime(2090, 1, 1, tzinfo=UTC).timestamp() * 1000
    # What the service does at the key's first request finds the same row.
    resolved = await terminal.database.resolve_api_key(verified.unkey_key_id, "acme", "Ada")
    assert resolved == row.key


async def test_a_secret_is_shown_by_create_and_never_again(terminal: Terminal) -> None:
    done = await terminal.flow("keys", "create", "--team", "acme", "--name", "Ada")
    (row,) = (await terminal.database.operating.list_api_keys()).items
    secret = next(word for word in done.out.split() if word.startswith("flow_"))
    assert (await terminal.verify(secret)).unkey_key_id == row.key.unkey_key_id
    assert "Shown once" in done.out
    assert done.err == ""
    for command in (["list"], ["show", "Ada"], ["budget", "Ada"], ["revoke", "Ada", "--yes"]):
        for form in ([], ["--json"]):
            later = await terminal.flow("keys", *command, *form)
            assert later.code == 0
            assert secret not in later.out + later.err


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(kind="status", status=401), "does not know the root key"),
        (Fault(kind="status", status=403), "api.*.create_key"),
        (Fault(kind="status", status=404), "'api_sandbox' in UNKEY_API_ID does not exist"),
        (Fault(kind="status", status=412), "is not set up for keys"),
        (Fault(kind="status", status=429), "try again in a minute"),
        (Fault(kind="status", status=500), "look for it in Unkey's dashboard"),
        (Fault(kind="drop"), "look for it in Unkey's dashboard"),
        (Fault(kind="malformed"), "look for it in Unkey's dashboard"),
    ],
    ids=["401", "403", "404", "412", "429", "500", "drop", "malformed"],
)
async def test_when_unkey_makes_no_key_there_is_no_row(
    terminal: Terminal, fault: Fault, said: str
) -> None:
    terminal.unkey.faults.add(fault)
    done = await terminal.flow("keys", "create", "--team", "acme", "--name", "Ada", "--json")
    assert said in done.failure
    assert (await terminal.database.operating.list_api_keys()).items == ()
    assert [one.path for one in terminal.unkey.requests] == ["/v2/keys.createKey"]


async def test_when_the_row_cannot_be_written_the_key_is_revoked_again(
    terminal: Terminal, postgres_url: str
) -> None:
    _break(postgres_url, "api_keys")
    done = await terminal.flow("keys", "create", "--team", "acme", "--name", "Ada")
    assert "was revoked again at Unkey: try again" in done.failure
    assert _asked(terminal) == ["keys.createKey", "keys.deleteKey"]
    with pytest.raises(KeyError):
        terminal.unkey.key(_key_named_in(done.err))


async def test_when_only_the_budget_cannot_be_set_key_and_row_are_revoked(
    terminal: Terminal, postgres_url: str
) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as sql:
        sql.execute("drop function public.set_budget")
    done = await terminal.flow("keys", "create", "--team", "a", "--name", "b", "--budget", "5")
    assert "was revoked again at Unkey: try again" in done.failure
    (row,) = (await terminal.database.operating.list_api_keys()).items
    assert row.revoked_at is not None
    with pytest.raises(KeyError):
        terminal.unkey.key(row.key.unkey_key_id)


async def test_a_key_that_cannot_be_taken_back_is_named(
    terminal: Terminal, postgres_url: str
) -> None:
    _break(postgres_url, "api_keys")
    terminal.unkey.faults.add(Fault(kind="status", status=403, route=DELETE))
    done = await terminal.flow("keys", "create", "--team", "acme", "--name", "Ada")
    assert "api.*.delete_key" in done.failure
    assert "delete it in Unkey's dashboard" in done.failure
    assert terminal.unkey.key(_key_named_in(done.err)).name == "Ada"


async def test_without_a_database_unkey_is_not_asked(terminal: Terminal) -> None:
    nobody = "postgresql://nobody@127.0.0.1:1/none"
    done = await terminal.flow("keys", "create", "--team", "a", "--name", "b", DATABASE_URL=nobody)
    assert done.failure
    assert _asked(terminal) == []


@pytest.mark.parametrize("name", ["UNKEY_ROOT_KEY", "UNKEY_API_ID"])
async def test_create_says_what_is_missing(terminal: Terminal, name: str) -> None:
    terminal.without(name)
    done = await terminal.flow("keys", "create", "--team", "a", "--name", "b", FLOW_DEBUG="true")
    assert f"{name} is missing" in done.failure
    assert "dashboard" in done.failure


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--team", "a b", "--name", "n"], "team"),
        (["--team", "a", "--name", " "], "--name"),
        (["--team", "a", "--name", "n", "--budget", "0"], "no cap at all"),
        (["--team", "a", "--name", "n", "--expires", "2020-01-01"], "in the future"),
        (["--team", "a", "--name", "n", "--expires", "soon"], "--expires"),
        (["--team", "a", "--name", "n", "--prefix", "not-good"], "prefix"),
        (["--team", "a", "--name", "n" * 201], "name"),
    ],
)
async def test_what_cannot_be_made_is_refused(
    terminal: Terminal, args: list[str], said: str
) -> None:
    done = await terminal.flow("keys", "create", *args)
    assert said in done.failure
    assert (await terminal.database.operating.list_api_keys()).items == ()


async def test_a_revoked_key_is_refused_and_stays_in_the_list(terminal: Terminal) -> None:
    made = await terminal.create()
    done = (await terminal.flow("keys", "revoke", "Ada", "--yes", "--json")).json
    assert done["revoked_at_unkey"] is True
    assert done["revoked_at"] is not None
    with pytest.raises(Refused, match="not valid"):
        await terminal.verify(made["secret"])
    (row,) = (await terminal.flow("keys", "list", "--json")).json["keys"]
    assert row["revoked_at"] == done["revoked_at"]


async def test_revoking_again_changes_nothing_and_says_so(terminal: Terminal) -> None:
    made = await terminal.create()
    first = (await terminal.flow("keys", "revoke", made["api_key_id"], "--yes", "--json")).json
    again = (await terminal.flow("keys", "revoke", made["api_key_id"], "--yes", "--json")).json
    assert again == first | {"revoked_at_unkey": False}


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(kind="status", status=403), "api.*.delete_key"),
        (Fault(kind="status", status=500), "do it again"),
        (Fault(kind="drop"), "do it again"),
    ],
    ids=["403", "500", "drop"],
)
async def test_while_unkey_does_not_revoke_the_row_does_not_say_so(
    terminal: Terminal, fault: Fault, said: str
) -> None:
    made = await terminal.create()
    terminal.unkey.faults.add(fault)
    assert said in (await terminal.flow("keys", "revoke", "Ada", "--yes")).failure
    terminal.unkey.faults.clear()
    assert (await terminal.database.operating.get_api_key("Ada")).revoked_at is None
    assert (await terminal.verify(made["secret"])).unkey_key_id == made["unkey_key_id"]


async def test_revoked_at_unkey_alone_says_to_do_it_again(
    terminal: Terminal, postgres_url: str
) -> None:
    made = await terminal.create()
    with psycopg.connect(postgres_url, autocommit=True) as sql:
        sql.execute("drop function public.revoke_api_key")
    done = await terminal.flow("keys", "revoke", "Ada", "--yes")
    assert made["unkey_key_id"] in done.failure
    assert "Do it again" in done.failure


async def test_revoke_asks_and_where_nobody_is_wants_yes(terminal: Terminal) -> None:
    made = await terminal.create()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from flow.cli import main; main()", "keys", "revoke", "Ada",
        env=terminal.env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert (process.returncode, out) == (2, b"")
    assert b"--yes" in err
    await terminal.verify(made["secret"])


async def test_a_key_is_shown_as_unkey_and_the_database_know_it(terminal: Terminal) -> None:
    made = await terminal.create("--permission", "budget.override")
    terminal.unkey.key(made["unkey_key_id"]).enabled = False
    shown = (await terminal.flow("keys", "show", "Ada", "--json")).json
    assert shown.pop("unkey_note") is None
    at_unkey = shown.pop("unkey")
    assert shown == {name: value for name, value in made.items() if name != "secret"}
    assert at_unkey["enabled"] is False
    assert at_unkey["permissions"] == ["budget.override"]
    assert (at_unkey["team_id"], at_unkey["expires_at"]) == ("acme", None)
    assert "disabled" in (await terminal.flow("keys", "show", "Ada")).out


@pytest.mark.parametrize(
    ("fault", "note"),
    [
        (Fault(kind="status", status=500), "HTTP 500"),
        (Fault(kind="status", status=403), "api.*.read_key"),
        (Fault(kind="status", status=404), "no such key"),
        (Fault(kind="drop"), "did not answer"),
        (Fault(kind="malformed"), "makes no sense"),
    ],
    ids=["500", "403", "404", "drop", "malformed"],
)
async def test_with_unkey_away_the_databases_part_is_shown_with_a_note(
    terminal: Terminal, fault: Fault, note: str
) -> None:
    made = await terminal.create()
    terminal.unkey.faults.add(fault)
    shown = (await terminal.flow("keys", "show", "Ada", "--json")).json
    assert shown["api_key_id"] == made["api_key_id"]
    assert shown["unkey"] is None
    assert note in shown["unkey_note"]


async def test_without_unkey_the_databases_part_works(terminal: Terminal) -> None:
    await terminal.database.resolve_api_key("debug", "debug", "debug")
    terminal.without("UNKEY_ROOT_KEY", "UNKEY_API_ID", "UNKEY_BASE_URL")
    terminal.env["FLOW_DEBUG"] = "true"
    shown = (await terminal.flow("keys", "show", "debug", "--json")).json
    assert "UNKEY_ROOT_KEY" in shown["unkey_note"]
    capped = (await terminal.flow("keys", "budget", "debug", "--cap", "5", "--json")).json
    assert capped["budget"]["cap_usd"] == "5"
    done = await terminal.flow("keys", "revoke", "debug", "--yes")
    assert "UNKEY_ROOT_KEY is missing" in done.failure


async def test_a_key_is_found_by_either_id_or_by_a_name_of_its_own(terminal: Terminal) -> None:
    made = await terminal.create()
    for reference in (made["api_key_id"], made["unkey_key_id"], "Ada"):
        shown = (await terminal.flow("keys", "budget", reference, "--json")).json
        assert shown["api_key_id"] == made["api_key_id"]
    await terminal.create(team="other")
    assert "2 keys are named Ada" in (await terminal.flow("keys", "show", "Ada")).failure
    assert "no API key nobody" in (await terminal.flow("keys", "show", "nobody")).failure


async def test_keys_are_listed_by_team(terminal: Terminal) -> None:
    for team in ("acme", "other"):
        await terminal.create(team=team, name=f"key of {team}")
    listed = (await terminal.flow("keys", "list", "--team", "other", "--json")).json["keys"]
    assert [one["name"] for one in listed] == ["key of other"]
    table = (await terminal.flow("keys", "list")).out
    assert "key of acme" in table
    assert "key of other" in table


async def test_names_are_shown_as_text_and_command_no_terminal(terminal: Terminal) -> None:
    name = "[red]x[/red]\x1b[2Jy"
    await terminal.database.resolve_api_key("key_1", "acme", name)
    table = (await terminal.flow("keys", "list")).out
    assert "[red]x[/red]\ufffd[2Jy" in table
    assert "\x1b" not in table
    (listed,) = (await terminal.flow("keys", "list", "--json")).json["keys"]
    assert listed["name"] == name


def _break(postgres_url: str, table: str) -> None:
    """Let the database answer, and refuse to write."""
    with psycopg.connect(postgres_url, autocommit=True) as sql:
        sql.execute(
            "create function public.refuse() returns trigger language plpgsql as"
            " $$ begin raise exception 'no space left on device' using errcode = '53100'; end $$"
        )
        sql.execute(
            f"create trigger broken before insert on public.{table}"
            " execute function public.refuse()".encode()
        )


def _asked(terminal: Terminal) -> list[str]:
    return [one.path.removeprefix("/v2/") for one in terminal.unkey.requests]


def _key_named_in(text: str) -> str:
    return next(word for word in text.split() if word.startswith("key_"))


@pytest.mark.parametrize(
    "args",
    [
        ["keys", "budget", "{}", "--cap", "5"],
        ["keys", "show", "{}"],
        ["keys", "save-mode", "{}", "auto"],
        ["keys", "revoke", "{}", "--yes"],
        ["keys", "webhook", "{}", "--none"],
        ["usage", "--key", "{}"],
        ["threads", "list", "--key", "{}"],
        ["threads", "show", "{}"],
        ["webhooks", "secret", "{}"],
        ["webhooks", "list", "--key", "{}"],
        ["webhooks", "show", "{}"],
        ["agents", "list", "--key", "{}"],
        ["numbers", "add", "+4930123456", "--key", "{}"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("secret", ["flow_3ZfakeSecretOfNoKey", "3ZfakeSecretOfNoKey"])
async def test_the_secret_of_a_key_is_never_repeated(
    terminal: Terminal, args: list[str], secret: str
) -> None:
    done = await terminal.flow(*(arg.format(secret) for arg in args))
    assert done.code != 0
    assert "fakeSecret" not in done.out + done.err
    assert "of that name or id" in done.err or "is no id of" in done.err
