"""keys and accounts: API keys and accounts in Redis."""

import re
import secrets
from datetime import date, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from sidecar.commands import accounts_move
from sidecar.commands.options import CONFIG, REDIS, REDIS_PREFIX, Command
from sidecar.commands.output import cell, echo
from sidecar.errors import SettingsError

if TYPE_CHECKING:
    from sidecar.stores.admin import Admin

ACCOUNT = Annotated[str, typer.Option(metavar="ID", help="Account ID.")]
PLAN = Annotated[str | None, typer.Option(metavar="PLAN", help="ID of the plan in the plan file.")]
TIMEZONE = Annotated[
    str | None, typer.Option(metavar="ZONE", help="Time zone, such as Europe/Paris.")
]
ANCHOR = Annotated[
    str | None, typer.Option(metavar="DATE", help="Billing anchor, such as 2026-01-15.")
]

TEAMS = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="Teams and their shares, such as search=40%,ads=30%:keep; none: no teams.",
    ),
]


def keys_app() -> typer.Typer:
    """The commands of `sidecar keys`."""
    group = typer.Typer(
        help="Manage API keys in Redis.", no_args_is_help=True, rich_markup_mode=None
    )
    group.command("create", cls=Command)(create)
    group.command("list", cls=Command)(list_keys)
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
    return group


def lifetime(text: str | None) -> timedelta | None:
    """A lifetime such as "365d", "12h" or "90m". Raises SettingsError."""
    if text is None:
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,5})([dhm])", text)
    if match is None:
        raise SettingsError(
            f'--expires: "{text}" is not a lifetime; write it like 365d, 12h or 90m'
        )
    unit = {"d": "days", "h": "hours", "m": "minutes"}[match[2]]
    return timedelta(**{unit: int(match[1])})


def date_of(text: str | None) -> date | None:
    """A date in ISO format. Raises SettingsError."""
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise SettingsError(f'--anchor: "{text}" is not a date; write it like 2026-01-15') from None


def time_zone_of(text: str | None) -> str | None:
    """An IANA time zone name. Raises SettingsError."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return None if text is None else ZoneInfo(text).key
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise SettingsError(
            f'--timezone: "{text}" is not a time zone; write an IANA name such as Europe/Paris'
        ) from None


def name(flag: str, text: str) -> str:
    """An id that is valid in headers, Redis keys and events. Raises SettingsError."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,127}", text) is None:
        raise SettingsError(
            f'{flag}: "{text}" is not an id; use up to 128 letters, digits and _ . : @ -'
        )
    return text


def teams_of(text: str | None) -> str | None:
    """A list of teams as it is stored; "": no teams. Raises SettingsError."""
    from sidecar.core.teams import read_teams

    if text is None or text == "none":
        return None if text is None else ""
    try:
        read_teams(text)
    except ValueError as error:
        raise SettingsError(f'--teams: "{text}" {error}') from None
    return text


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
    redis: REDIS = None,
    redis_prefix: REDIS_PREFIX = None,
    config: CONFIG = None,
) -> int:
    """Create an API key and print its secret, which is not stored.

    With --plan, the command also creates or changes the account. Without, the account must be in
    Redis or in the plan file. Only the secret is printed to stdout.

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
    with _admin(redis, redis_prefix, config) as admin:
        if any(given is not None for given in (plan, timezone, anchor, teams)):
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
    with _admin(redis, redis_prefix, config) as admin:
        for row in admin.list_keys(account):
            left = f"expires in {row.expires_s // 86_400} days" if row.expires_s >= 0 else "-"
            cells = [row.account, row.id, f"sha256:{row.digest[:12]}…", left]
            cells += [f"team={row.team}"] if row.team else []
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
    with _admin(redis, redis_prefix, config) as admin:
        admin.revoke_key(account, key_id)
    echo(f"Key {key_id} of account {account} is revoked.")
    return 0


def set_account(
    account: ACCOUNT,
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
    redis: REDIS = None,
    redis_prefix: REDIS_PREFIX = None,
    config: CONFIG = None,
) -> int:
    """Create or change an account in Redis, within 1 s.

    \b
    Examples:
      sidecar accounts set --account acme --plan pro
      sidecar accounts set --account acme --suspend
      sidecar accounts set --account acme --teams search=40%,ads=30%:keep
    """
    name("--account", account)
    status = None if suspend is None else "suspended" if suspend else "active"
    if all(given is None for given in (plan, timezone, anchor, status, teams, webhook)):
        raise SettingsError(
            "nothing to set; give --plan, --timezone, --anchor, --suspend, --teams or --webhook"
        )
    if webhook and re.fullmatch(r"https?://[!-~]{1,2000}", webhook) is None:
        raise SettingsError(f'--webhook: "{webhook}" is not a URL; write it like https://HOST/PATH')
    day_of, zone_of, listed = date_of(anchor), time_zone_of(timezone), teams_of(teams)
    with _admin(redis, redis_prefix, config) as admin:
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


def list_accounts(
    redis: REDIS = None, redis_prefix: REDIS_PREFIX = None, config: CONFIG = None
) -> int:
    """List the accounts in Redis: plan, time zone, anchor, status.

    \b
    Example:
      sidecar accounts list
    """
    with _admin(redis, redis_prefix, config) as admin:
        for row in admin.list_accounts():
            shown = [f"{field}={value}" for field, value in sorted(row.fields.items()) if value]
            echo("\t".join(map(cell, [row.id, *shown])))
    return 0


def _admin(redis: str | None, redis_prefix: str | None, config: str | None) -> "Admin":
    from sidecar.settings import load_subset
    from sidecar.stores.admin import Admin

    settings = load_subset(
        "config", "redis", "redis_prefix", redis=redis, redis_prefix=redis_prefix, config=config
    )

    return Admin(settings.redis.get_secret_value(), settings.redis_prefix)
