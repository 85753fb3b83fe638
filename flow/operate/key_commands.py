"""The commands ``flow keys ...`` and ``flow usage``: arguments, turned into one call.

Each command imports what it needs when it runs, so that ``flow --help`` answers at once.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from flow.errors import InvalidInput
from flow.operate.command_context import confirm, database_of, run, say, unkey_of

if TYPE_CHECKING:
    from flow.domain.products.save_mode import SaveMode
    from flow.settings import Settings

keys = typer.Typer(name="keys", help="Issue API keys, limit and revoke them.", no_args_is_help=True)


class Mode(StrEnum):
    """Parse a key's save mode; ``default`` leaves it to the product."""

    OFF = "off"
    AUTO = "auto"
    ON = "on"
    DEFAULT = "default"


AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Key = Annotated[
    str, typer.Argument(help="Its id here, its id at Unkey, or a name no other key has.")
]


@keys.command()
def create(
    team: Annotated[str, typer.Option(help="The team it belongs to.")],
    name: Annotated[str, typer.Option(help="What people call it.")],
    budget: Annotated[str | None, typer.Option(help="USD a month (UTC).")] = None,
    save_mode: Annotated[Mode, typer.Option(help="When its calls are made cheaper.")] = (
        Mode.DEFAULT
    ),
    expires: Annotated[str | None, typer.Option(help="When it ends, as in 2027-01-01.")] = None,
    permission: Annotated[
        list[str] | None, typer.Option(help="What else it may do; may be repeated.")
    ] = None,
    prefix: Annotated[str, typer.Option(help="How its secret begins.")] = "flow",
    as_json: AsJson = False,
) -> None:
    """Make a key at Unkey and its row here, and show its secret this once."""
    from flow.admin import json_forms
    from flow.admin.keys import NewKey, issue
    from flow.operate import arguments, tables

    if not name.strip():
        raise InvalidInput("--name must not be blank.")
    asked = NewKey(
        team_id=team,
        name=name,
        prefix=prefix or None,
        expires_at=arguments.later(expires, "--expires", _now()) if expires else None,
        permissions=permission or (),
        cap_usd=arguments.cap(budget) if budget is not None else None,
        save_mode=_save_mode(save_mode),
    )

    async def work(settings: Settings) -> None:
        async with unkey_of(settings) as unkey, database_of(settings) as database:
            made = await issue(database, unkey, asked)
        told = {**json_forms.account(made.account), "secret": made.secret}
        say(told, as_json, lambda: tables.issued(made), value=made.secret)

    run(work)


@keys.command("list")
def list_(
    team: Annotated[str | None, typer.Option(help="Only this team's.")] = None,
    as_json: AsJson = False,
) -> None:
    """List every key that was ever seen, with what it spent this month."""
    from flow.admin import json_forms
    from flow.operate import tables

    async def work(settings: Settings) -> None:
        async with database_of(settings) as database:
            page = await database.operating.list_api_keys(team_id=team)
        found = sorted(page.items, key=lambda one: (one.key.team_id, one.created_at, one.key.id))
        shown = {"keys": [json_forms.account(one) for one in found]}
        say(shown, as_json, lambda: tables.keys(found))

    run(work)


@keys.command("show")
def show_(key: Key, as_json: AsJson = False) -> None:
    """Show a key: its limits here, and what Unkey says of it."""
    from flow.admin import json_forms
    from flow.admin.keys import describe
    from flow.operate import tables

    async def work(settings: Settings) -> None:
        async with database_of(settings) as database:
            if settings.unkey_root_key is None:
                found = await describe(database, None, key)
            else:
                async with unkey_of(settings) as unkey:
                    found = await describe(database, unkey, key)
        at_unkey = None if found.details is None else json_forms.details(found.details)
        told = {**json_forms.account(found.account), "unkey": at_unkey, "unkey_note": found.note}
        say(told, as_json, lambda: tables.key(found))

    run(work)


@keys.command()
def budget(
    key: Key,
    cap: Annotated[str | None, typer.Option(help="USD a month (UTC).")] = None,
    no_cap: Annotated[bool, typer.Option("--no-cap", help="Lift the cap for good.")] = False,
    override_until: Annotated[
        str | None, typer.Option(help="Let the budget refuse nothing until then (UTC).")
    ] = None,
    override_for: Annotated[
        str | None, typer.Option(help="The same for so long: 90m, 24h, 7d.")
    ] = None,
    no_override: Annotated[bool, typer.Option("--no-override", help="End that.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a key's budget, or set its cap, or lift it for a time."""
    from flow.admin import json_forms
    from flow.admin.keys import set_limits
    from flow.operate import arguments, tables

    _one_of({"--cap": cap is not None, "--no-cap": no_cap})
    _one_of(
        {
            "--override-until": override_until is not None,
            "--override-for": override_for is not None,
            "--no-override": no_override,
        }
    )
    cap_usd = arguments.cap(cap) if cap is not None else None
    until = None
    if override_until is not None:
        until = arguments.later(override_until, "--override-until", _now())
    elif override_for is not None:
        until = _now() + arguments.span(override_for, "--override-for")

    async def work(settings: Settings) -> None:
        async with database_of(settings) as database:
            found = await database.operating.get_api_key(key)
            await set_limits(
                database,
                found.key.id,
                cap_usd=cap_usd,
                lift_cap=no_cap,
                override_until=until,
                end_override=no_override,
            )
            found = await database.operating.get_api_key(str(found.key.id))
        say(json_forms.account(found), as_json, lambda: tables.budget(found))

    run(work)


@keys.command("save-mode")
def save_mode(
    key: Key,
    mode: Annotated[Mode, typer.Argument(help="When its calls are made cheaper.")],
    as_json: AsJson = False,
) -> None:
    """Set when a key's calls are made cheaper; ``default`` leaves it to the product."""
    from flow.admin import json_forms
    from flow.operate import tables

    async def work(settings: Settings) -> None:
        async with database_of(settings) as database:
            found = await database.operating.get_api_key(key)
            found = await database.operating.set_save_mode(found.key.id, _save_mode(mode))
        say(json_forms.account(found), as_json, lambda: tables.budget(found))

    run(work)


@keys.command()
def quota(
    team: Annotated[str, typer.Argument(help="The team.")],
    resource: Annotated[
        str | None,
        typer.Argument(help="ai_credits (cents of billable cost), call_seconds, concurrent_calls."),
    ] = None,
    limit: Annotated[
        str | None, typer.Argument(help="A month's worth; 0 allows nothing, none lifts it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a team's quotas, or set one."""
    from flow.admin.quotas import set_quota
    from flow.operate import tables
    from flow.operate.quota_admin import read_limit, standing, terms_of

    asked = read_limit(limit) if limit is not None else None

    async def work(settings: Settings) -> None:
        terms = terms_of(settings.products_file)
        async with database_of(settings) as database:
            if resource is not None and limit is not None:
                await set_quota(database, terms, team, resource, asked)
            found = await standing(database, terms, team, resource)
        told = [{"team_id": team_id, **state.to_json()} for team_id, state in found]
        say({"quotas": told}, as_json, lambda: tables.quotas(found))

    run(work)


@keys.command()
def rates(
    key: Key,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Requests to the gateway in a minute.")
    ] = None,
    tokens_per_minute: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of its requests in a minute, input and output together."),
    ] = None,
    concurrent_requests: Annotated[
        int | None, typer.Option(min=1, help="Requests to the gateway at once.")
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Lift all three.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a key's limits of requests to the gateway, or set them; those not named stay."""
    from flow.admin import json_forms
    from flow.domain.limits.quota import RATES
    from flow.operate import tables

    limits = (requests_per_minute, tokens_per_minute, concurrent_requests)
    given = {n: most for n, most in zip(RATES, limits, strict=True) if most is not None}
    _one_of({"--none": none, "a limit": bool(given)})

    async def work(settings: Settings) -> None:
        async with database_of(settings) as database:
            found = await database.operating.get_api_key(key)
            if none or given:
                set_ = {} if none else {**found.rates, **given}
                found = await database.operating.set_key_rates(found.key.id, set_)
        say(json_forms.account(found), as_json, lambda: tables.budget(found))

    run(work)


@keys.command()
def revoke(
    key: Key,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Revoke a key: no new calls from within a minute on; its usage stays."""
    from flow.admin import json_forms
    from flow.admin.keys import Described
    from flow.admin.keys import revoke as revoke_key
    from flow.operate import tables

    async def work(settings: Settings) -> None:
        async with unkey_of(settings) as unkey, database_of(settings) as database:
            found = await database.operating.get_api_key(key)
            if not yes:
                confirm(f"Revoke {found.key.name!r} ({found.key.unkey_key_id}) for good?")
            done = await revoke_key(database, unkey, found)
        note = "Unkey refuses it, everywhere within a minute."
        if not done.at_unkey:
            note = "Unkey has no such key (any more) in the workspace of this root key."
        told = {**json_forms.account(done.account), "revoked_at_unkey": done.at_unkey}
        say(told, as_json, lambda: tables.key(Described(done.account, None, note)))

    run(work)


def usage(
    from_: Annotated[
        str | None, typer.Option("--from", help="First day (UTC); the month's by default.")
    ] = None,
    to: Annotated[str | None, typer.Option(help="Last day (UTC), included.")] = None,
    by: Annotated[
        str,
        typer.Option(
            help="Any of key, team, day, model, provider, product, kind, source; with commas."
        ),
    ] = "key,model",
    key: Annotated[str | None, typer.Option(help="Only this key's.")] = None,
    team: Annotated[str | None, typer.Option(help="Only this team's.")] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="A spreadsheet, without total.")] = False,
) -> None:
    """Report what was used and what it cost. Over all keys and this month (UTC) by default."""
    from flow.admin.usage import GROUPS, report
    from flow.domain.usage.reports import as_csv as spreadsheet
    from flow.domain.usage.reports import grouping, period
    from flow.operate import arguments, tables

    _one_of({"--json": as_json, "--csv": as_csv})
    days = period(
        arguments.day(from_, "--from") if from_ else None,
        arguments.day(to, "--to") if to else None,
        _now().date(),
    )
    groups = grouping(by, GROUPS, field="--by")

    async def work(settings: Settings) -> None:
        async with database_of(settings) as database:
            found = await report(database, days, groups, key=key, team_id=team)
        if as_csv:
            sys.stdout.write(spreadsheet(found.rows, found.columns))
        else:
            say(found.to_json(), as_json, lambda: tables.usage(found))

    run(work)


def _one_of(options: dict[str, bool]) -> None:
    if len(both := [name for name, is_given in options.items() if is_given]) > 1:
        raise InvalidInput(f"{both[0]} and {both[1]} exclude each other.")


def _save_mode(mode: Mode) -> SaveMode | None:
    from flow.domain.products.save_mode import SaveMode

    return None if mode is Mode.DEFAULT else SaveMode(mode)


def _now() -> datetime:
    return datetime.now(UTC)
