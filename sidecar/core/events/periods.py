"""The periods in which quotas counted a request, as members of its event."""

from collections.abc import Sequence
from datetime import date
from functools import lru_cache

from sidecar.core.model import Account, Claim, PeriodUnit, QuotaLimit
from sidecar.core.periods import bounds
from sidecar.core.text import instant


def periods_of(claims: Sequence[Claim], ends_us: Sequence[int], account: Account) -> dict[str, str]:
    """Return for each quota by its id the period of the account's calendar that counted it.

    A period is an ISO 8601 interval in UTC: its start, a slash and its end. `ends_us`: the ends
    in the store's answer to the claims; () without an answer.
    """
    return {
        claim.limit.id: _interval(claim.limit.period, account.timezone, account.anchor, end_us)
        for claim, end_us in zip(claims, ends_us, strict=False)
        if isinstance(claim.limit, QuotaLimit)
    }


@lru_cache(maxsize=4096)
def _interval(period: PeriodUnit, timezone: str, anchor: date | None, end_us: int) -> str:
    start_us = bounds(period, timezone, anchor, end_us - 1)[0]
    return f"{instant(start_us)}/{instant(end_us)}"
