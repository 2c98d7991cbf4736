"""The plan files in force while the events were recorded, and the accounts of the events."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from sidecar.core.identity import ANONYMOUS
from sidecar.core.kinds import QuotaLimit
from sidecar.core.model import Account, PlanBook


class ChargedQuotas(NamedTuple):
    """The quotas that a request charged.

    `certain`: they come from the plan file of the request; else from the current one.
    """

    quotas: tuple[QuotaLimit, ...]
    certain: bool


class PlanHistory:
    """The current plan book and former ones, by version."""

    def __init__(self, current: PlanBook, former: Iterable[PlanBook] = ()) -> None:
        self.current = current
        self._books = {book.version: book for book in (*former, current)}

    def charged_quotas(self, version: str, plan_id: str, meters: Sequence[str]) -> ChargedQuotas:
        """Return the quotas that a request on this plan with usage of these meters charged."""
        book = self._books.get(version)
        plan = (book or self.current).plans.get(plan_id)
        if plan is None:
            return ChargedQuotas((), book is not None)
        quotas = tuple(
            limit
            for limit in plan.limits
            if isinstance(limit, QuotaLimit) and limit.meter in meters
        )
        return ChargedQuotas(quotas, book is not None)

    def most_units(self, meter: str) -> int:
        """Return the most units of a meter that a route of any known plan file costs at once."""
        costs = (dict(route.cost) for book in self._books.values() for route in book.routes)
        return max((cost.get(meter, 0) for cost in costs), default=0)

    def quota(self, limit_id: str, plan_id: str) -> QuotaLimit | None:
        """Return the current quota with this id: that of the plan, else of the first plan."""
        plans = self.current.plans
        own = [plans[plan_id]] if plan_id in plans else []
        for plan in (*own, *plans.values()):
            for limit in plan.limits:
                if isinstance(limit, QuotaLimit) and limit.id == limit_id:
                    return limit
        return None


class ResolvedAccount(NamedTuple):
    """An account. `known`: its time zone and billing anchor are known, not assumed."""

    account: Account
    known: bool


def resolve_account(
    account_id: str, plan: str, book: PlanBook, record: Callable[[str], Account | None]
) -> ResolvedAccount:
    """Return the account from the plan file or from its `record` in Redis.

    If both lack it, only its `plan` is known, and its time zone is taken as UTC.
    """
    if account_id in book.accounts:
        return ResolvedAccount(book.accounts[account_id], True)
    if account_id.startswith(f"{ANONYMOUS}/"):
        return ResolvedAccount(Account(account_id, book.anonymous_plan or plan), True)
    account = record(account_id)
    return ResolvedAccount(account or Account(account_id, plan), account is not None)
