"""accounts move: a change of plan, now or at the end of a period."""

from datetime import date
from typing import TYPE_CHECKING, Annotated

import typer

from sidecar.commands.options import CONFIG, PLANS, REDIS, REDIS_PREFIX
from sidecar.commands.output import echo
from sidecar.errors import SettingsError, SidecarError

if TYPE_CHECKING:
    from sidecar.core.model import Account, PlanBook
    from sidecar.stores.admin import Admin


def move(
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="Account ID.")],
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="ID of the new plan.")],
    when: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="Time: now, period-end, or a date such as 2026-12-15. Default: now, or for a "
            "lower plan the time that downgrades in the plan file sets.",
        ),
    ] = None,
    plans: PLANS = None,
    redis: REDIS = None,
    redis_prefix: REDIS_PREFIX = None,
    config: CONFIG = None,
) -> int:
    """Move an account in Redis to another plan.

    Units that the account has used in its current periods stay used. A move to the plan that the
    account is on cancels a scheduled move.

    \b
    Examples:
      sidecar accounts move acme pro --plans plans.yaml
      sidecar accounts move acme free --plans plans.yaml --when period-end
    """
    from sidecar.config.loading import load
    from sidecar.core.model import PlanChange
    from sidecar.core.plan_changes import at_time
    from sidecar.core.text import instant
    from sidecar.settings import load_subset
    from sidecar.stores.admin import Admin

    given = {"config": config, "plans": plans, "redis": redis, "redis_prefix": redis_prefix}
    settings = load_subset(*given, **given)
    book = load(settings.plans)
    if plan not in book.plans:
        known = ", ".join(book.plans)
        raise SettingsError(f'the plan file has no plan "{plan}"; write one of: {known}')
    with Admin(settings.redis.get_secret_value(), settings.redis_prefix) as admin:
        now_us = admin.now_us()
        record = at_time(_account(book, admin.account(account), account), now_us)
        at_us = _instant(book, record, plan, when, now_us)
        if plan == record.plan:
            _stay(admin, record)
            return 0
        if at_us is None or at_us <= now_us:
            admin.set_account(account, plan=plan)
            echo(f"Account {account} is on plan {plan}.")
            return 0
        admin.set_account(account, then=PlanChange(plan, at_us))
    echo(f"Account {account} stays on plan {record.plan} until {instant(at_us)}, then {plan}.")
    return 0


def _stay(admin: "Admin", record: "Account") -> None:
    """Say that the account is on the plan already, and cancel a scheduled move."""
    from sidecar.core.text import instant

    text, change = f"Account {record.id} is on plan {record.plan} already", record.next_plan
    if change is None:
        echo(f"{text}; nothing is changed.")
        return
    admin.set_account(record.id, plan=record.plan)
    echo(f"{text}; its move to plan {change.plan} on {instant(change.at_us)} is cancelled.")


def _account(book: "PlanBook", record: "Account | None", account: str) -> "Account":
    if account in book.accounts:
        raise SidecarError(
            f"account {account} is in the plan file; change its plan there, or add "
            "then: {plan: …, from: …}"
        )
    if record is None:
        raise SidecarError(
            f"account {account} is not in Redis; create it with sidecar accounts set"
        )
    return record


def _instant(
    book: "PlanBook", account: "Account", plan: str, when: str | None, now_us: int
) -> int | None:
    """When the account moves, in µs; None: now. Raises SettingsError."""
    from sidecar.core.periods import local_date, midnight
    from sidecar.core.plan_changes import is_downgrade, period_end

    if when is None:
        later = is_downgrade(book, account.plan, plan) and book.downgrades == "at_period_end"
        when = "period-end" if later else "now"
    if when == "now":
        return None
    if when == "period-end":
        before = book.plans.get(account.plan)
        end = None if before is None else period_end(before, account, now_us)
        if end is None:
            raise SettingsError(
                f"--when: plan {account.plan} has no quota, and so no period end; write now or "
                "a date such as 2026-12-15"
            )
        return end
    try:
        day = date.fromisoformat(when)
        at_us = midnight(day, account.timezone)
    except (ValueError, OverflowError):
        raise SettingsError(
            f'--when: "{when}" is not a time; write now, period-end or a date such as 2026-12-15'
        ) from None
    today = local_date(account.timezone, now_us)
    if day < today:
        raise SettingsError(
            f'--when: "{when}" is in the past; write now, period-end or a date from {today} on'
        )
    return at_us
