"""`flow webhooks` and `flow keys webhook`."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from standardwebhooks import Webhook

from flow.domain.calls.thread import Status
from flow.domain.limits.api_key import ApiKey
from flow.domain.webhooks.webhook import Claimed
from tests.db.making import JOIN
from tests.operate.conftest import Terminal

URL = "https://hooks.example.com/[bold]?to=me"
LEASE = timedelta(seconds=30)


async def a_key(terminal: Terminal, name: str = "Ada") -> ApiKey:
    return await terminal.database.resolve_api_key(f"key_{name}", "acme", name)


async def told(terminal: Terminal, key: ApiKey) -> UUID:
    """A thread that is over, and of which somebody is to be told."""
    join = JOIN.model_copy(update={"webhook_url": URL})
    made = await terminal.database.join_thread(
        key, uuid4(), join, billable=True, idempotency_key=None, fingerprint="f"
    )
    return (await terminal.database.finish_thread(made.thread.id, Status.FAILED)).id


async def dead(terminal: Terminal, key: ApiKey) -> Claimed:
    """A webhook that was given up."""
    await told(terminal, key)
    (claimed,) = await terminal.database.webhooks.claim(limit=1, per_key=1, lease=LEASE)
    note = terminal.database.webhooks.note_failed
    assert await note(claimed, status=None, error="\x1b[2Jtimeout", retry_in=None)
    return claimed


async def test_webhooks_are_listed_and_shown(terminal: Terminal) -> None:
    ada, bob = await a_key(terminal), await a_key(terminal, "Bob")
    assert "no such webhooks" in (await terminal.flow("webhooks", "list")).out
    gone = await dead(terminal, ada)
    thread_id = await told(terminal, bob)
    listed = (await terminal.flow("webhooks", "list", "--json")).json["webhooks"]
    assert [(one["state"], one["attempts"]) for one in listed] == [("waiting", 0), ("dead", 1)]
    assert "payload" not in listed[0]
    for args, threads in (
        (["--dead"], [str(gone.workflow_thread_id)]),
        (["--key", "Bob"], [str(thread_id)]),
        (["--dead", "--key", "Bob"], []),
        (["--limit", "1"], [str(thread_id)]),
    ):
        found = (await terminal.flow("webhooks", "list", *args, "--json")).json["webhooks"]
        assert [one["workflow_thread_id"] for one in found] == threads
    shown = (await terminal.flow("webhooks", "show", str(gone.event_id), "--json")).json
    assert shown["payload"] == json.loads(gone.payload)
    assert (shown["url"], shown["last_error"]) == (URL, "\x1b[2Jtimeout")
    for args in (["list"], ["show", str(gone.event_id)]):
        seen = await terminal.flow("webhooks", *args)
        assert (seen.code, seen.err) == (0, "")
        assert "[bold]" in "".join(seen.out.split())
        assert "\x1b" not in seen.out
        assert str(gone.event_id) in seen.out


async def test_dead_webhooks_are_sent_again(terminal: Terminal) -> None:
    ada, bob = await a_key(terminal), await a_key(terminal, "Bob")
    first, second, third = [await dead(terminal, key) for key in (ada, ada, bob)]
    one = await terminal.flow("webhooks", "replay", str(first.event_id), "--json")
    assert (one.json["state"], one.json["attempts"]) == ("waiting", 0)
    some = await terminal.flow("webhooks", "replay", "--dead", "--key", "Ada", "--json")
    assert some.json == {"replayed": 1}
    assert "1 webhook is sent again" in (await terminal.flow("webhooks", "replay", "--dead")).out
    due = await terminal.database.webhooks.claim(limit=9, per_key=9, lease=LEASE)
    assert {one.event_id for one in due} == {first.event_id, second.event_id, third.event_id}
    failure = (await terminal.flow("webhooks", "replay", str(first.event_id))).failure
    assert "still being delivered" in failure


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["webhooks", "replay"], "--dead for all"),
        (["webhooks", "replay", str(UUID(int=1)), "--dead"], "--dead for all"),
        (["webhooks", "replay", str(UUID(int=1)), "--key", "Ada"], "--key goes with --dead"),
        (["webhooks", "replay", str(UUID(int=1))], "There is no webhook"),
        (["webhooks", "replay", "x"], "is no id of a webhook"),
        (["webhooks", "show", str(UUID(int=1))], "There is no webhook"),
        (["webhooks", "list", "--key", "nobody"], "There is no API key nobody"),
        (["webhooks", "secret", "nobody"], "There is no API key nobody"),
        (["keys", "webhook", "Ada", "--url", "http://example.com"], "must be an https:// URL"),
        (["keys", "webhook", "Ada", "--url", "https://10.0.0.7/"], "a public host"),
        (["keys", "webhook", "Ada", "--url", URL, "--none"], "exclude each other"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
async def test_what_cannot_be_done_is_said_in_a_sentence(
    terminal: Terminal, args: list[str], said: str
) -> None:
    await a_key(terminal)
    assert said in (await terminal.flow(*args)).failure


async def test_a_secret_is_made_once_shown_and_rotated(terminal: Terminal) -> None:
    await a_key(terminal)
    first = (await terminal.flow("webhooks", "secret", "Ada", "--json")).json
    assert first == (await terminal.flow("webhooks", "secret", "Ada", "--json")).json
    assert Webhook(first["secret"]).sign("id", datetime.now(UTC), "x").startswith("v1,")
    assert first["previous_secret"] is None
    rotated = (await terminal.flow("webhooks", "secret", "Ada", "--rotate", "--json")).json
    assert rotated["secret"] != first["secret"] == rotated["previous_secret"]
    until = datetime.fromisoformat(rotated["previous_until"]) - datetime.now(UTC)
    assert timedelta(hours=23, minutes=55) < until < timedelta(hours=24, minutes=5)
    shown = (await terminal.flow("webhooks", "secret", "Ada")).out
    assert shown == rotated["secret"] + "\n"  # into a pipe
    for elsewhere in (["keys", "show", "Ada"], ["keys", "list"], ["keys", "webhook", "Ada"]):
        out = (await terminal.flow(*elsewhere, "--json")).out
        assert rotated["secret"] not in out
        assert first["secret"] not in out


async def test_a_keys_url_is_set_shown_and_taken_away(terminal: Terminal) -> None:
    await a_key(terminal)

    async def webhook(*args: str, **env: str) -> str | None:
        done = await terminal.flow("keys", "webhook", "Ada", *args, "--json", **env)
        url: str | None = done.json["webhook_url"]
        return url

    assert await webhook() is None
    assert await webhook("--url", URL) == URL
    assert await webhook() == URL
    assert URL in (await terminal.flow("keys", "webhook", "Ada")).out
    assert await webhook("--none") is None
    local = "http://127.0.0.1:9000/"
    allowed = {"FLOW_DEBUG": "true", "FLOW_WEBHOOKS_ALLOW_PRIVATE": "true"}
    assert await webhook("--url", local, **allowed) == local
