"""keys and accounts: API keys and accounts in Redis."""

import secrets
from typing import TYPE_CHECKING, Annotated

import typer

from sidecar.commands import accounts_move, accounts_show, keys_rotate
from sidecar.commands.account_options import (
    ACCOUNT,
    ANCHOR,
    PLAN,
    TEAMS,
    TIMEZONE,
    check_with_plans,
    date_of,
    lifetime,
    name,
    open_admin,
    teams_of,
    time_zone_of,
)
from sidecar.commands.options import CONFIG, PLANS, REDIS, REDIS_PREFIX, Command
from sidecar.commands.output import cell, echo
from sidecar.errors import SettingsError

if TYPE_CHECKING:
    from sidecar.stores.admin import Admin


def keys_app() -> typer.Typer:
    """The commands of `sidecar keys`."""
    group = typer.Typer(
        help="Manage API keys in Redis.", no_args_is_help=True, rich_markup_mode=None
    )
    group.command("create", cls=Command)(create)
    group.command("list", cls=Command)(list_keys)
    group.command("rotate", cls=Command)(keys_rotate.rotate)
    group.command("revoke", cls=Command)(revoke)
    return group


def accounts_app() -> typer.Typer:
    """The commands of `sidecar accounts`."""
    group = typer.Typer(
        help="Manage accounts in Redis.", no_args_is_help=True, rich_markup_mode=None
    )
    group.command("set", cls=Command)(set_account)
    group.command("move", cls=Command)(accounts_move.move)
    group.command("list", cls=Command)(list_accounts)
    group.command("show", cls=Command)(accounts_show.show)
    group.command("delete", cls=Command)(accounts_show.delete)
    return group


def create(
    account: ACCOUNT,
    key_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="ID of the API key. Default: random.")
    ] = None,
    plan: PLAN = None,
    timezone: TIMEZONE = None,
    anchor: ANCHOR = None,
    teams: TEAMS = None,
    team: Annotated[str | None, typer.Option(metavar="TEAM", help="Team of the API key.")] = None,
    expires: Annotated[
        str | None,
        typer.Option(metavar="SPAN", help="Lifetime, such as 365d, 12h or 90m. Default: 10 years."),
    ] = None,
    plans: PLANS = None,
    redis: REDIS = None,
    redis_prefix: REDIS_PREFIX = None,
    config: CONFIG = None,
) -> int:
    """Create an API key and print its secret, which is not stored.

    With --plan, the command also creates or changes the account, after a check that the plan
    exists: in the file of --plans, or in those of the running sidecars. Without --plan, the
    account must be in Redis or in the plan file. Only the secret is printed to stdout.

    \b
    Examples:
      sidecar keys create --account acme --plan pro --timezone Europe/Paris --anchor 2026-01-15
      sidecar keys create --account acme --team search
      KEY=$(sidecar keys create --account acme --id k2 --expires 365d)
    """
    name("--account", account)
    if key_id is not None:
        name("--id", key_id)
    if team is not None:
        name("--team", team)
    expires_in, day_of, zone_of = lifetime(expires), date_of(anchor), time_zone_of(timezone)
    listed = teams_of(teams)
    changes = any(given is not None for given in (plan, timezone, anchor, teams))
    if changes:
        check_with_plans(plans, redis, redis_prefix, config, account, plan)
    with open_admin(redis, redis_prefix, config) as admin:
        if changes:
            admin.set_account(account, plan=plan, timezone=zone_of, anchor=day_of, teams=listed)
        elif not admin.has_account(account):
            echo(
                f"note: account {account} is not in Redis: its keys work only if the plan file "
                "has it, or after sidecar accounts set",
                err=True,
            )
        if team is not None:
            _require_team(admin, account, team)
        created, secret = admin.create_key(
            account, random_bytes=secrets.token_bytes, key_id=key_id, expires=expires_in, team=team
        )
    echo(f"Key {created} of account {account}; the secret is shown only now:", err=True)
    echo(secret)
    return 0


def _require_team(admin: "Admin", account: str, team: str) -> None:
    """Check a key's team. For an account of the plan file, requests with the key check it."""
    record = admin.account(account)
    if record is not None and team not in {one.id for one in record.teams}:
        names = ", ".join(one.id for one in record.teams) or "none"
        raise SettingsError(
            f'--team: account {account} has no team "{team}" (its teams: {names}); '
            "add it with sidecar accounts set --teams"
        )


def list_keys(
    account: Annotated[
        str | None, typer.Option(metavar="ID", help="Account ID. Default: all accounts.")
    ] = None,
    redis: REDIS = None,
    redis_prefix: REDIS_PREFIX = None,
    config: CONFIG = None,
) -> int:
    """List the API keys in Redis: account, ID, SHA-256, days left, team.

    \b
    Example:
      sidecar keys list --account acme
    """
    with open_admin(redis, redis_prefix, config) as admin:
        for row in admin.list_keys(account):
            cells = [row.account, *accounts_show.key_cells(row)]
            echo("\t".join(map(cell, cells)))
    return 0


def revoke(
    account: ACCOUNT,
    key_id: Annotated[str, typer.Option("--id", metavar="ID", help="ID of the API key.")],
    redis: REDIS = None,
    redis_prefix: REDIS_PREFIX = None,
    config: CONFIG = None,
) -> int:
    """Revoke an API key, on every sidecar within 1 s.

    \b
    Example:
      sidecar keys revoke --account acme --id k1
    """
    with open_admin(redis, redis_prefix, config) as admin:
        admin.revoke_key(account, key_id)
    echo(f"Key {key_id} of account {account} is revoked.")
    return 0


def set_account(
    account: Annotated[
        str | None, typer.Argument(metavar="ACCOUNT", help="Account ID.", show_default=False)
    ] = None,
    account_id: Annotated[
        str | None, typer.Option("--account", metavar="ID", help="Account ID, as ACCOUNT.")
    ] = None,
    plan: PLAN = None,
    timezone: TIMEZONE = None,
    anchor: ANCHOR = None,
    suspend: Annotated[
        bool | None,
        typer.Option(
            "--suspend/--resume", help="Suspend: answer requests with 402. Resume: serve them."
        ),
    ] = None,
    teams: TEAMS = None,
    webhook: Annotated[
        str | None,
        typer.Option(metavar="URL", help="URL that receives a POST when a job ends. Empty: none."),
    ] = None,
    plans: PLANS = None,
    redis: REDIS = None,
    redis_prefix: REDIS_PREFIX = None,
    config: CONFIG = None,
) -> int:
    """Create or change an account in Redis; sidecars use it within 1 s.

    The command checks that the plan exists, and refuses an account of the plan file, which
    sidecars read from the file: that of --plans, or those of the running sidecars.

    \b
    Examples:
      sidecar accounts set acme --plan pro
      sidecar accounts set acme --suspend
      sidecar accounts set acme --teams search=40%,ads=30%:keep
    """
    account = _one_account(account, account_id)
    status = None if suspend is None else "suspended" if suspend else "active"
    if all(given is None for given in (plan, timezone, anchor, status, teams, webhook)):
        raise SettingsError(
            "nothing to set; give --plan, --timezone, --anchor, --suspend, --teams or --webhook"
        )
    if webhook:
        _check_webhook(webhook)
    day_of, zone_of, listed = date_of(anchor), time_zone_of(timezone), teams_of(teams)
    check_with_plans(plans, redis, redis_prefix, config, account, plan)
    with open_admin(redis, redis_prefix, config) as admin:
        admin.set_account(
            account,
            plan=plan,
            timezone=zone_of,
            anchor=day_of,
            status=status,
            teams=listed,
            webhook=webhook,
        )
    echo(f"Account {account} is set.")
    return 0


def _one_account(argument: str | None, option: str | None) -> str:
    """The account of an argument or an option. Raises SettingsError unless exactly one is given."""
    given = argument if option is None else option
    if given is None or None not in (argument, option):
        raise SettingsError("ACCOUNT: give one account ID, such as sidecar accounts set acme")
    return name("ACCOUNT" if option is None else "--account", given)


def _check_webhook(url: str) -> None:
    from sidecar.outbound import OutboundRefused, parse_url

    try:
        parse_url(url)
    except OutboundRefused as error:
        raise SettingsError(f"--webhook: {error}; write it like https://HOST/PATH") from None


def list_accounts(
    redis: REDIS = None, redis_prefix: REDIS_PREFIX = None, config: CONFIG = None
) -> int:
    """List the accounts in Redis: plan, time zone, anchor, status.

    \b
    Example:
      sidecar accounts list
    """
    with open_admin(redis, redis_prefix, config) as admin:
        for row in admin.list_accounts():
            shown = [f"{field}={value}" for field, value in sorted(row.fields.items()) if value]
            echo("\t".join(map(cell, [row.id, *shown])))
    return 0
