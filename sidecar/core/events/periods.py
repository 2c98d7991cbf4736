"""The periods in which quotas counted a request, as members of its event."""

from collections.abc import Sequence
from datetime import date
from functools import lru_cache

from sidecar.core.answers import QuotaDetail
from sidecar.core.kinds import MICRO, PeriodUnit, QuotaLimit
from sidecar.core.model import Account, Claim
from sidecar.core.periods import bounds
from sidecar.core.text import instant


def starts_of(details: Sequence[QuotaDetail]) -> tuple[int, ...]:
    """Return the starts of periods that are not the calendar's; () without any."""
    for detail in details:
        if detail.started_us:
            return tuple([one.started_us for one in details])
    return ()


def periods_of(
    claims: Sequence[Claim],
    ends_us: Sequence[int],
    account: Account,
    starts_us: Sequence[int] = (),
) -> dict[str, str]:
    """Return for each quota by its id the period that counted the claim.

    A period is an ISO 8601 interval in UTC: its start, a slash and its end. `ends_us`: the ends
    in the store's answer to the claims; () without an answer. `starts_us`: see `starts_of`; 0 and
    (): the start of the account's calendar.
    """
    return {
        claim.limit.id: _interval(
            claim.limit.period,
            account.timezone,
            account.anchor,
            starts_us[at] if starts_us else 0,
            end_us,
        )
        for at, (claim, end_us) in enumerate(zip(claims, ends_us, strict=False))
        if isinstance(claim.limit, QuotaLimit)
    }


@lru_cache(maxsize=4096)
def _interval(
    period: PeriodUnit, timezone: str, anchor: date | None, start_us: int, end_us: int
) -> str:
    start_us = start_us or bounds(period, timezone, anchor, end_us - 1)[0]
    start_us -= start_us % MICRO  # a new counter may start within a second
    return f"{instant(start_us)}/{instant(end_us)}"
