"""Accounts that move to another plan: at once, at the end of their period, or on a day.

Usage stays: limits are arguments to the script and counters know no plan, so what was used in a
period counts against whatever the new plan allows in it.
"""

from dataclasses import replace
from functools import lru_cache

from sidecar.core.model import Account, Key, Plan, PlanBook, QuotaLimit
from sidecar.core.periods import window_at


@lru_cache(maxsize=4096)
def moved(key: Key) -> Key:
    """The key of an account whose time to move has come. The same object each time: what is
    remembered of an account is remembered of that."""
    then = key.account.then
    if then is None:
        return key
    return replace(key, account=replace(key.account, plan=then.plan, then=None))


def is_downgrade(book: PlanBook, plan: str, to: str) -> bool:
    """Whether `to` stands below `plan` in the ladder. A plan that is not offered any more stands
    nowhere: leaving it is no downgrade."""
    before = book.plans.get(plan)
    return before is not None and book.plans[to].rank < before.rank


def period_end(plan: Plan, account: Account, now_us: int) -> int | None:
    """When the last of the account's current periods ends, by the quotas of its plan that count
    accounts; None when it has none. The longest period is what is sold and billed."""
    ends = [
        window_at(limit, account, now_us).end
        for limit in plan.limits
        if isinstance(limit, QuotaLimit) and limit.per == "account"
    ]
    return max(ends, default=None)
