"""`flow doctor`: each check finds what is wrong, and says what to do."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flow.bot.transports import TRANSPORTS
from flow.db.migrations import migrations
from flow.domain.webhooks.webhook import Delivery
from flow.ledger.spool import Spool
from flow.operate.doctor.answers import Asker, ClockReading
from flow.operate.doctor.clock_check import clock_finding
from flow.operate.doctor.finding import Finding, Status, is_well
from flow.operate.doctor.host_check import disk_findings
from flow.operate.doctor.vendor_keys import key_findings
from flow.operate.doctor.webhook_check import webhook_findings
from flow.sandbox import daily, livekit
from flow.sandbox.all_vendors import vendors
from flow.sandbox.faults import Fault
from flow.sandbox.model_vendors import MODEL_VENDORS
from flow.sandbox.server import Served
from flow.sandbox.stand_in import StandIn
from flow.sandbox.twilio import app as twilio
from flow.settings import Settings
from tests.operate.conftest import Terminal
from tests.operate.test_webhooks import a_key, dead
from tests.ports import free_port

SECRET = "not-a-secret-" * 3
NOBODY = 65534
WITH_KEYS = {*MODEL_VENDORS, "twilio"}


@dataclass(frozen=True, slots=True)
class Clinic:
    """A terminal whose environment has everything, and the stand-ins for it."""

    terminal: Terminal
    stand_ins: dict[str, StandIn]

    async def doctor(self, code: int = 0, **env: str) -> dict[str, list[dict[str, str]]]:
        """The findings by their check, of a command that ends so."""
        done = await self.terminal.flow("doctor", "--json", **env)
        assert (done.code, done.err) == (code, ""), done
        told = json.loads(done.out)
        assert told["ok"] is (code == 0)
        found: dict[str, list[dict[str, str]]] = defaultdict(list)
        for finding in told["findings"]:
            found[finding["check"]].append(finding)
        return found

    def fail(self, fault: Fault, *names: str) -> None:
        """Have these stand-ins fail, or all that have a key."""
        for name in names or WITH_KEYS:
            self.stand_ins[name].faults.add(fault)


@pytest.fixture
async def clinic(terminal: Terminal, tmp_path: Path) -> AsyncIterator[Clinic]:
    phones = twilio.TwilioSandbox()
    async with AsyncExitStack() as stack:
        stood_in = await stack.enter_async_context(vendors(models=MODEL_VENDORS))
        phone_url = await stack.enter_async_context(Served(phones))
        terminal.env |= {
            name: value
            for name, value in stood_in.environment.items()
            if not name.startswith("UNKEY_")
        }
        terminal.env |= {
            "FLOW_SECRET": SECRET,
            "FLOW_DATA_DIR": str(tmp_path / "data"),
            "FLOW_PORT": str(free_port()),
            "TWILIO_ACCOUNT_SID": twilio.ACCOUNT_SID,
            "TWILIO_AUTH_TOKEN": twilio.AUTH_TOKEN,
            "TWILIO_BASE_URL": phone_url,
        }
        others = {"twilio": phones, "unkey": terminal.unkey, "posthog": stood_in.posthog}
        yield Clinic(terminal, {**stood_in.models, **others})


async def test_all_is_well_and_nothing_secret_is_told(clinic: Clinic) -> None:
    await clinic.terminal.create()
    found = await clinic.doctor()
    assert {one["status"] for findings in found.values() for one in findings} == {"ok", "skipped"}
    assert {check for check, (one, *_) in found.items() if one["status"] == "skipped"} == {
        "webhooks",
        "public URL",
    }
    assert found.keys() >= WITH_KEYS | {"unkey verify", "unkey create", "unkey read", "migrations"}
    # Nothing was made to find that out.
    assert len((await clinic.terminal.flow("keys", "list", "--json")).json["keys"]) == 1
    shown = await clinic.terminal.flow("doctor")
    assert "Nothing is wrong." in shown.out
    told = shown.out + json.dumps(found)
    secrets = {
        value
        for name, value in clinic.terminal.env.items()
        if name.endswith(("_KEY", "_TOKEN", "_SECRET"))
    }
    assert [secret for secret in secrets if secret in told] == []


NO_ANSWER = "cannot be asked"


@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [
        (Fault(kind="status", status=401), "problem", "refuses the key"),
        (Fault(kind="status", status=403), "warning", "knows the key"),
        (Fault(kind="status", status=429), "warning", "takes no more requests now"),
        (Fault(kind="status", status=503), "problem", "fails (HTTP 503)"),
        (Fault(kind="status", status=404), "problem", "what answers"),
        (Fault(kind="malformed"), "problem", "what answers"),
        (Fault(kind="drop"), "problem", NO_ANSWER),
        (Fault(kind="hang"), "problem", "no answer within 5 s"),
    ],
    ids=lambda given: f"{given.kind}-{given.status}" if isinstance(given, Fault) else None,
)
async def test_a_key_that_is_not_taken_is_found_with_the_variable_to_mend(
    fault: Fault, status: str, said: str, clinic: Clinic
) -> None:
    """Of all vendors at once, within the time of one."""
    clinic.fail(fault)
    found = await clinic.doctor(1 if status == "problem" else 0)
    of_vendors = {name: found[name][0] for name in WITH_KEYS}
    assert {one["status"] for one in of_vendors.values()} == {status}
    assert [one["said"] for one in of_vendors.values() if said not in one["said"]] == []
    if fault.status == 401:
        assert "ANTHROPIC_API_KEY" in of_vendors["anthropic"]["cure"]
        assert "TWILIO_AUTH_TOKEN" in of_vendors["twilio"]["cure"]


async def test_a_key_that_no_request_can_have_is_found(clinic: Clinic) -> None:
    wrong = {"ANTHROPIC_API_KEY": "k\u00e9y\u2026", "DEEPGRAM_BASE_URL": "http://x:port"}
    found = await clinic.doctor(1, **wrong)
    for name in ("anthropic", "deepgram"):
        assert "characters that no request can have" in found[name][0]["said"]


async def test_a_wrong_key_is_found_by_the_vendor_itself(clinic: Clinic) -> None:
    found = await clinic.doctor(1, TWILIO_AUTH_TOKEN="another one")
    assert "refuses the key" in found["twilio"][0]["said"]


WRONG_KEYS = {"daily_api_key": SecretStr("another"), "livekit_api_secret": SecretStr("x" * 40)}


@pytest.mark.parametrize(
    ("wrong", "status", "said"),
    [
        ({}, "ok", "takes the key"),
        (WRONG_KEYS, "problem", "refuses the key"),
    ],
)
async def test_keys_for_rooms_are_tried(
    wrong: dict[str, Any], status: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their packages need not be here for that."""
    monkeypatch.setattr("flow.bot.transports.spec.is_installed", lambda _: True)
    asker = Asker()
    async with Served(daily.DailySandbox()) as rooms, Served(livekit.LiveKitSandbox()) as media:
        given = {
            "daily_api_key": SecretStr(daily.API_KEY),
            "daily_api_url": f"{rooms}/v1",
            "livekit_url": media.replace("http", "ws"),
            "livekit_api_key": livekit.API_KEY,
            "livekit_api_secret": SecretStr(livekit.API_SECRET),
        }
        found = await key_findings(Settings(**(given | wrong)), asker)
    await asker.aclose()
    of_rooms = [one for one in found if one.check in {"daily", "livekit"}]
    assert [(one.status, said in one.said) for one in of_rooms] == [(status, True)] * 2


async def test_a_key_whose_package_is_missing_says_what_to_install(clinic: Clinic) -> None:
    if TRANSPORTS["daily"].missing is None:
        pytest.skip("it is installed here")
    (found,) = (await clinic.doctor(1, DAILY_API_KEY="k"))["daily"]
    assert found["cure"] == "install 'flow-voice[daily]'."


@pytest.mark.parametrize(
    ("fault", "check", "status", "cure"),
    [
        (Fault(kind="status", status=401), "unkey", "problem", "UNKEY_ROOT_KEY"),
        (Fault(kind="drop"), "unkey", "problem", "UNKEY_BASE_URL"),
        (Fault(kind="hang"), "unkey", "problem", "UNKEY_BASE_URL"),
        (
            Fault(kind="status", status=403, route="*verifyKey"),
            "unkey verify",
            "problem",
            "api.*.verify_key",
        ),
        (
            Fault(kind="status", status=403, route="*createKey"),
            "unkey create",
            "warning",
            "api.*.create_key",
        ),
        (
            Fault(kind="status", status=403, route="*getKey"),
            "unkey read",
            "warning",
            "api.*.read_key",
        ),
    ],
)
async def test_a_permission_that_the_root_key_lacks_is_named(
    fault: Fault, check: str, status: str, cure: str, clinic: Clinic
) -> None:
    await clinic.terminal.create()
    clinic.fail(fault, "unkey")
    found = await clinic.doctor(1 if status == "problem" else 0)
    assert (found[check][0]["status"], cure in found[check][0]["cure"]) == (status, True)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(kind="status", status=401), "refuses the project key"),
        (Fault(kind="status", status=500), "HTTP 500"),
        (Fault(kind="drop"), NO_ANSWER),
    ],
)
async def test_posthog_is_asked_for_the_project_key(
    fault: Fault, said: str, clinic: Clinic
) -> None:
    clinic.fail(fault, "posthog")
    assert said in (await clinic.doctor(1))["posthog"][0]["said"]


async def test_a_clock_that_is_off_is_told_by_what_the_others_say(clinic: Clinic) -> None:
    late = format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)
    clinic.fail(Fault(kind="status", status=200, headers={"Date": late}, body={}))
    (clock,) = (await clinic.doctor())["clock"]
    assert (clock["status"], "ahead of" in clock["said"]) == ("warning", True)


@pytest.mark.parametrize(
    ("ahead", "status"),
    [
        ([0.4], "ok"),
        ([2.4], "ok"),  # a Date has whole seconds
        ([2.7], "warning"),
        ([-2.7], "warning"),
        ([0.1, 3600.0, 0.2], "ok"),  # one of them is wrong by itself
        ([], "skipped"),
    ],
)
def test_a_clock_is_off_by_the_word_of_most(ahead: list[float], status: str) -> None:
    readings = [ClockReading("a vendor", secs, doubt_secs=0.5) for secs in ahead]
    assert clock_finding(readings).status == status


async def test_every_setting_that_is_wrong_is_told_at_once(clinic: Clinic) -> None:
    wrong = {"FLOW_PORT": "many", "FLOW_LOG_FORMAT": "pretty", "OPENAI_BASE_URL": "ftp://x"}
    found = await clinic.doctor(1, **wrong)
    assert sorted(one["said"].partition(":")[0] for one in found["settings"]) == sorted(wrong)


async def test_settings_that_contradict_each_other_are_told_with_their_cures(
    clinic: Clinic, tmp_path: Path
) -> None:
    products = tmp_path / "products.toml"
    products.write_text("[bot]\n")
    clinic.terminal.without("UNKEY_ROOT_KEY", "TWILIO_AUTH_TOKEN")
    found = await clinic.doctor(
        1,
        FLOW_SECRET="short",
        FLOW_QUOTA_TOKEN="x",
        FLOW_PRODUCTS_FILE=str(products),
        FLOW_PRICES_FILE=str(tmp_path / "none.toml"),
        FLOW_BOTS="no_such_module",
    )
    said = " ".join(f"{one['said']} {one['cure']}" for one in found["settings"])
    for name in (
        "UNKEY_ROOT_KEY is missing",
        "FLOW_SECRET must have at least 32",
        "FLOW_QUOTA_TOKEN is for FLOW_QUOTA_URL",
        "TWILIO_AUTH_TOKEN go together",
        "products.toml",
        "none.toml",
        "FLOW_BOTS: no_such_module",
    ):
        assert name in said


async def test_a_database_that_is_away_is_named_without_its_password(clinic: Clinic) -> None:
    url = f"postgresql://ada:hunter2@127.0.0.1:{free_port()}/flow"
    (database,) = (await clinic.doctor(1, DATABASE_URL=url))["database"]
    assert "postgresql://ada@127.0.0.1:" in database["said"]
    assert "hunter2" not in json.dumps(database)


async def test_no_database_is_made(clinic: Clinic, tmp_path: Path) -> None:
    clinic.terminal.without("DATABASE_URL")
    (database,) = (await clinic.doctor())["database"]
    assert (database["status"], str(tmp_path) in database["cure"]) == ("warning", True)
    assert list(tmp_path.iterdir()) == []


HISTORY = "supabase_migrations.schema_migrations"


@pytest.mark.parametrize(
    ("sql", "check", "status", "said"),
    [
        (
            f"delete from {HISTORY} where version = '{migrations()[-1].version}'",
            "migrations",
            "problem",
            "1 are not applied",
        ),
        (f"insert into {HISTORY} (version) values ('29990101')", "migrations", "warning", "newer"),
        (
            "alter table usage_events disable row level security",
            "database rights",
            "problem",
            "usage_events",
        ),
        ("grant select on api_keys to anon", "database rights", "problem", "api_keys"),
        (
            "revoke execute on function flow_ping() from service_role",
            "database rights",
            "problem",
            "service_role may not call",
        ),
    ],
)
async def test_what_the_database_lacks_is_found(
    sql: str, check: str, status: str, said: str, clinic: Clinic, postgres_url: str
) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(sql.encode())
    found = await clinic.doctor(1 if status == "problem" else 0)
    assert [(one["status"], said in one["said"]) for one in found[check]] == [(status, True)]


async def test_a_webhooks_host_that_cannot_be_reached_is_found(clinic: Clinic) -> None:
    await dead(clinic.terminal, await a_key(clinic.terminal))
    found = (await clinic.doctor(1))["webhooks"]
    assert [one["status"] for one in found] == ["problem", "warning"]
    assert "hooks.example.com:443 cannot be connected to" in found[0]["said"]
    assert "flow webhooks list --dead" in found[1]["cure"]


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("http://127.0.0.1:{open}/x", "ok"),
        ("http://127.0.0.1:{closed}/x", "problem"),
        ("https://no-such-host.invalid/x", "problem"),
    ],
)
async def test_the_way_to_a_webhooks_host_is_tried(
    url: str, status: str, delivery: Delivery
) -> None:
    settings = Settings(debug=True, webhooks_allow_private=True)  # type: ignore[call-arg]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        at = url.format(open=listening.getsockname()[1], closed=free_port())
        (found,) = await webhook_findings(settings, [replace(delivery, url=at)])
    assert found.status == status


async def test_a_webhook_to_a_private_address_is_not_tried(delivery: Delivery) -> None:
    settings = Settings()  # type: ignore[call-arg]
    (found,) = await webhook_findings(settings, [replace(delivery, url="https://127.0.0.1/x")])
    assert (found.status, "not a public address" in found.said) == ("warning", True)


async def test_a_port_that_another_program_has_is_found(clinic: Clinic) -> None:
    port = int(clinic.terminal.env["FLOW_PORT"])
    with socket.create_server(("127.0.0.1", port)):
        (found,) = (await clinic.doctor(1))["port"]
    assert "another program listens" in found["said"]


async def test_the_flow_of_this_machine_is_no_other_clock(clinic: Clinic) -> None:
    async def healthz(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async with Served(Starlette(routes=[Route("/healthz", healthz)])) as url:
        found = await clinic.doctor(FLOW_PORT=url.rpartition(":")[2])
    assert "Flow listens" in found["port"][0]["said"]
    assert "public URL" not in found["clock"][0]["said"]


async def test_the_public_url_has_to_lead_to_flow(clinic: Clinic) -> None:
    elsewhere = clinic.terminal.env["POSTHOG_HOST"]
    (found,) = (await clinic.doctor(1, FLOW_PUBLIC_URL=elsewhere))["public URL"]
    assert f"no Flow answers at {elsewhere}/healthz" in found["said"]


def test_what_killed_processes_left_in_the_spool_is_told_and_kept(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path / "spool")
    spool.append("event", {"id": 1})
    assert [one.status for one in disk_findings(tmp_path)] == ["ok"]  # its process lives
    spool.close()
    for _ in range(2):
        _, left = disk_findings(tmp_path)
        assert (left.status, left.said.split(" hold")[0]) == (
            "warning",
            "1 left by killed processes",
        )


@pytest.mark.parametrize(
    ("free", "status"), [(2 << 30, "ok"), (1 << 29, "warning"), (1 << 20, "problem")]
)
def test_a_full_disk_is_told(
    free: int, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": free}))
    assert [one.status for one in disk_findings(tmp_path)] == [status]


def test_a_folder_that_cannot_be_written_is_told() -> None:
    (found,) = disk_findings(Path("/proc/flow"))
    assert (found.status, "FLOW_DATA_DIR" in str(found.cure)) == ("problem", True)


@pytest.mark.parametrize(
    ("data_dir", "closed"), [("data/inside", "data"), ("data", "data"), ("data", "data/spool")]
)
def test_a_folder_that_is_closed_to_this_user_is_told(data_dir: str, closed: str) -> None:
    # Not pytest's own folder, into which nobody but its user may look.
    with tempfile.TemporaryDirectory() as name, _unprivileged(Path(name)):
        above = Path(name)
        (above / "data" / "spool").mkdir(parents=True)
        (above / closed).chmod(0)
        try:
            *_, found = disk_findings(above / data_dir)
        finally:
            (above / closed).chmod(0o700)
    assert (found.status, "FLOW_DATA_DIR" in str(found.cure)) == ("problem", True)


@contextmanager
def _unprivileged(folder: Path) -> Iterator[None]:
    """Another user's rights, and the folder as theirs, where this user is root."""
    if os.geteuid() != 0:
        yield
        return
    os.chown(folder, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def delivery() -> Delivery:
    """A webhook that was delivered."""
    now = datetime.now(UTC)
    some: dict[str, Any] = dict.fromkeys(
        ("event_id", "api_key_id", "workflow_thread_id", "dead_at", "next_attempt_at")
    )
    return Delivery(
        **some,
        type="thread.completed",
        team_id="acme",
        created_at=now,
        url="",
        state="delivered",
        attempts=1,
        delivered_at=now,
        last_status=204,
        last_error=None,
    )


def test_only_a_problem_makes_it_fail() -> None:
    found = [Finding("x", status, "said") for status in Status]
    assert not is_well(found)
    assert is_well(one for one in found if one.status is not Status.PROBLEM)
