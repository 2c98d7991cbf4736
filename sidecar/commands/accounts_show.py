"""accounts show and delete: one account in Redis, with its API keys."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidecar.commands.account_options import open_admin
from sidecar.commands.options import CONFIG, REDIS, REDIS_PREFIX
from sidecar.commands.output import cell, echo
from sidecar.core.text import amount
from sidecar.errors import SettingsError, SidecarError

if TYPE_CHECKING:
    from sidecar.stores.admin import Admin, KeyRow

_DAY_S, _HOUR_S = 86_400, 3_600
ACCOUNT = Annotated[str, typer.Argument(metavar="ACCOUNT", help="Account ID.")]


def show(
    account: ACCOUNT,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for programs.")] = False,
    redis: REDIS = None,
    redis_prefix: REDIS_PREFIX = None,
    config: CONFIG = None,
) -> int:
    """Show an account in Redis and its API keys, never their secrets.

    \b
    Example:
      sidecar accounts show acme
    """
    with open_admin(redis, redis_prefix, config) as admin:
        fields, rows = _read(admin, account)
    if as_json:
        keys: list[dict[str, Any]] = [
            {
                "id": row.id,
                "sha256": row.digest,
                "expires_s": row.expires_s if row.expires_s >= 0 else None,
                "team": row.team or None,
            }
            for row in rows
        ]
        echo(json.dumps({"account": account, **fields, "keys": keys}, indent=2))
        return 0
    echo(f"account\t{cell(account)}")
    for field, value in fields.items():
        echo(f"{cell(field)}\t{cell(value)}")
    for row in rows:
        echo("\t".join(["key", *map(cell, key_cells(row))]))
    return 0


def _read(admin: "Admin", account: str) -> "tuple[dict[str, str], list[KeyRow]]":
    """The fields of the record, and the keys. Raises SidecarError if Redis has neither."""
    record, rows = admin.record(account), list(admin.list_keys(account))
    if not record and not rows:
        raise SidecarError(f"account {account} is not in Redis")
    return {name: value for name, value in sorted(record.items()) if value}, rows


def key_cells(row: "KeyRow") -> list[str]:
    """ID, SHA-256, remaining lifetime and team of an API key."""
    left = "-"
    if row.expires_s >= _DAY_S:
        left = f"expires in {amount(-(-row.expires_s // _DAY_S), 'day')}"
    elif row.expires_s >= 0:
        left = f"expires in {amount(-(-row.expires_s // _HOUR_S), 'hour')}"
    team = [f"team={row.team}"] if row.team else []
    return [row.id, f"sha256:{row.digest[:12]}…", left, *team]


def delete(
    account: ACCOUNT,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only say what.")] = False,
    redis: REDIS = None,
    redis_prefix: REDIS_PREFIX = None,
    config: CONFIG = None,
) -> int:
    """Delete an account in Redis, and revoke its API keys within 1 s.

    Its counters and packs stay until their time to live ends: a period that is being billed can
    still be compared with the usage events, and a new account of this ID continues them.

    \b
    Example:
      sidecar accounts delete acme --yes
    """
    with open_admin(redis, redis_prefix, config) as admin:
        _, rows = _read(admin, account)
        keys = amount(len(rows), "API key")
        if not yes:
            raise SettingsError(
                f"this deletes account {account} and revokes {keys}; add --yes to do it"
            )
        admin.delete_account(account)
    echo(f"Account {account} is deleted, and {keys} revoked. Its counters stay until they expire.")
    return 0
