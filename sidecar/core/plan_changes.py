"""Accounts that move to another plan: at once, at the end of their period, or on a day.

Usage stays. Limits are arguments to the script, and counters do not depend on the plan. So what was
used in a period counts against the new plan's limit in it.
"""

from dataclasses import replace
from functools import lru_cache

from sidecar.core.kinds import QuotaLimit
from sidecar.core.model import Account, Key, Plan, PlanBook
from sidecar.core.periods import window_at


@lru_cache(maxsize=4096)
def after_change(key: Key) -> Key:
    """Return the key with its account on the next plan, if it has one.

    Returns the same object each time, because caches are keyed by the account object.
    """
    change = key.account.next_plan
    if change is None:
        return key
    return replace(key, account=replace(key.account, plan=change.plan, next_plan=None))


def at_time(account: Account, now_us: int) -> Account:
    """Return the account as it is at this time: on the next plan, if its move is due."""
    change = account.next_plan
    if change is None or change.at_us > now_us:
        return account
    return replace(account, plan=change.plan, next_plan=None)


def is_downgrade(book: PlanBook, plan: str, to: str) -> bool:
    """Whether `to` comes before `plan` in plan order.

    Leaving a plan that is no longer offered is not a downgrade.
    """
    before = book.plans.get(plan)
    return before is not None and book.plans[to].rank < before.rank


def period_end(plan: Plan, account: Account, now_us: int) -> int | None:
    """Return when the last of the account's current periods ends, in µs.

    Considers the plan's quotas per account; None without one. The longest period is the one that is
    sold and billed.
    """
    ends = [
        window_at(limit, account, now_us).end
        for limit in plan.limits
        if isinstance(limit, QuotaLimit) and limit.per == "account"
    ]
    return max(ends, default=None)
