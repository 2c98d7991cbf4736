"""grant: give an account a pack of extra units."""

import secrets
from typing import TYPE_CHECKING, Annotated

import typer

from sidecar.commands.account_options import name
from sidecar.commands.options import CONFIG, PLANS, REDIS, REDIS_PREFIX
from sidecar.commands.output import echo
from sidecar.errors import SettingsError, SidecarError

if TYPE_CHECKING:
    from sidecar.core.model import Account, Pack, PlanBook
    from sidecar.stores.admin import Admin


def grant(
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="Account ID.")],
    pack: Annotated[str, typer.Argument(metavar="PACK", help="ID of the pack in the plan file.")],
    plans: PLANS = None,
    grant_id: Annotated[
        str | None,
        typer.Option(
            "--id", metavar="ID", help="ID that grants the pack once, such as an order number."
        ),
    ] = None,
    redis: REDIS = None,
    redis_prefix: REDIS_PREFIX = None,
    config: CONFIG = None,
) -> int:
    """Grant an account a pack of extra units, from its next request on.

    A second grant with the same --id changes nothing: use the number of the order or payment.

    \b
    Examples:
      sidecar grant acme boost-10k --plans plans.yaml
      sidecar grant acme boost-10k --plans plans.yaml --id order-4711
    """
    name("ACCOUNT", account)
    grant_id = name("--id", grant_id) if grant_id else "g" + secrets.token_hex(6)
    from sidecar.config.loading import load
    from sidecar.core.text import amount, instant
    from sidecar.settings import load_subset
    from sidecar.stores.admin import Admin

    given = {"config": config, "plans": plans, "redis": redis, "redis_prefix": redis_prefix}
    settings = load_subset(*given, **given)
    book = load(settings.plans)
    one = _pack(book, pack)
    with Admin(settings.redis.get_secret_value(), settings.redis_prefix) as admin:
        done = admin.grant(_account(book, admin, account), one, grant_id, book.version)
    until = f"until {instant(done.expires_us)}"
    if done.new:
        more = amount(one.units, book.meters[one.meter].unit)
        echo(f"Account {account} has {more} more on {one.limit}, {until}: {grant_id}")
    else:
        echo(f"Grant {grant_id} exists already, {until}; nothing changed.")
    return 0


def _pack(book: "PlanBook", pack: str) -> "Pack":
    one = book.packs.get(pack)
    if one is None:
        known = ", ".join(book.packs) or "none"
        raise SettingsError(f'the plan file has no pack "{pack}"; write one of: {known}')
    return one


def _account(book: "PlanBook", admin: "Admin", account: str) -> "Account":
    record = book.accounts.get(account) or admin.account(account)
    if record is None:
        raise SidecarError(
            f"account {account} is neither in the plan file nor in Redis; "
            "create it with sidecar accounts set"
        )
    return record
