"""Parts that commands on accounts and API keys share: options, their readers, and checks."""

import contextlib
import os
import re
from datetime import date, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from sidecar.commands.output import echo
from sidecar.errors import ConfigError, SettingsError, SidecarError, StoreUnavailable

if TYPE_CHECKING:
    from sidecar.core.model import PlanBook
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


def lifetime(text: str | None, flag: str = "--expires") -> timedelta | None:
    """A lifetime such as "365d", "12h" or "90m". Raises SettingsError, which names the flag."""
    if text is None:
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,5})([dhm])", text)
    if match is None:
        raise SettingsError(f'{flag}: "{text}" is not a lifetime; write it like 365d, 12h or 90m')
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
    from sidecar.core.counting.teams import read_teams

    if text is None or text == "none":
        return None if text is None else ""
    try:
        read_teams(text)
    except ValueError as error:
        raise SettingsError(f'--teams: "{text}" {error}') from None
    return text


def open_admin(redis: str | None, redis_prefix: str | None, config: str | None) -> "Admin":
    from sidecar.settings import load_subset
    from sidecar.stores.admin import Admin

    settings = load_subset(
        "config", "redis", "redis_prefix", redis=redis, redis_prefix=redis_prefix, config=config
    )

    return Admin(settings.redis.get_secret_value(), settings.redis_prefix)


def check_with_plans(
    plans: str | None,
    redis: str | None,
    redis_prefix: str | None,
    config: str | None,
    account: str,
    plan: str | None,
) -> None:
    """Check a change of an account against the plan file, or those that sidecars keep in Redis.

    Without either, say that the plan is not checked. Raises SettingsError for a plan that no file
    has, SidecarError for an account of the file: sidecars use the file's record of it, not that in
    Redis.
    """
    book = _plan_book(plans, config)
    books = _live_books(redis, redis_prefix, config) if book is None else [book]
    if not books:
        if plan is not None:
            why = "as no sidecar keeps a plan file in Redis: name it with --plans (SIDECAR_PLANS)"
            echo(f'note: plan "{plan}" is not checked, {why}', err=True)
        return
    if plan is not None and not any(plan in one.plans for one in books):
        known = ", ".join(dict.fromkeys(name for one in books for name in one.plans))
        where = "the plan file" if book is not None else "the live plan file"
        raise SettingsError(f'--plan: {where} has no plan "{plan}"; write one of: {known}')
    if all(account in one.accounts for one in books):
        raise SidecarError(
            f"account {account} is in the plan file, and Redis cannot change it; change it there"
        )


def _live_books(
    redis: str | None, redis_prefix: str | None, config: str | None
) -> "list[PlanBook]":
    """The plan books that sidecars use; [] if this user may not read them."""
    from sidecar.config.loading import parse
    from sidecar.settings import load_subset
    from sidecar.stores.plan_file_reader import PlanFileReader

    settings = load_subset(
        "config", "redis", "redis_prefix", redis=redis, redis_prefix=redis_prefix, config=config
    )
    books = []
    try:
        texts = PlanFileReader(settings.redis.get_secret_value(), settings.redis_prefix).live()
    except StoreUnavailable as error:
        if "NOPERM" not in str(error):
            raise
        return []
    for text in texts:
        with contextlib.suppress(ConfigError):  # of a sidecar of another version
            books.append(parse(text, "the plan file in Redis"))
    return books


def _plan_book(plans: str | None, config: str | None) -> "PlanBook | None":
    """The plan file's book; None if no plan file is given. Raises ConfigError, SettingsError."""
    from sidecar.settings import load_subset

    try:
        settings = load_subset("config", "plans", config=config, plans=plans)
    except SettingsError:
        if plans is not None or os.environ.get("SIDECAR_PLANS"):
            raise
        return None
    from sidecar.config.loading import load

    return load(settings.plans)
