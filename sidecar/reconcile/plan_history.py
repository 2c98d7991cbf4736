"""What the plan files say of a recorded call, and who an account is."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from sidecar.core.identity import ANONYMOUS
from sidecar.core.model import Account, PlanBook, QuotaLimit


class Counted(NamedTuple):
    """Quotas that a call counted against. `certain`: the plan file by which it was decided says
    so; else it is today's, which may have said something else then."""

    quotas: tuple[QuotaLimit, ...]
    certain: bool


class PlanFiles:
    """Today's plan book and former ones, each known by its version."""

    def __init__(self, today: PlanBook, former: Iterable[PlanBook] = ()) -> None:
        self.today = today
        self._books = {book.version: book for book in (*former, today)}

    def counted(self, version: str, plan_id: str, meters: Sequence[str]) -> Counted:
        """What a call on this plan, with usage of these meters, counted against."""
        book = self._books.get(version)
        plan = (book or self.today).plans.get(plan_id)
        if plan is None:
            return Counted((), book is not None)
        quotas = tuple(
            limit
            for limit in plan.limits
            if isinstance(limit, QuotaLimit) and limit.meter in meters
        )
        return Counted(quotas, book is not None)

    def quota(self, limit_id: str, plan_id: str) -> QuotaLimit | None:
        """Today's limit of this id: the one of this plan, else of the first plan that has one."""
        plans = self.today.plans
        ordered = [plans[plan_id]] if plan_id in plans else []
        for plan in (*ordered, *plans.values()):
            for limit in plan.limits:
                if isinstance(limit, QuotaLimit) and limit.id == limit_id:
                    return limit
        return None


class Who(NamedTuple):
    """An account; `known`: its time zone and anchor are not guessed."""

    account: Account
    known: bool


def who(account_id: str, plan: str, book: PlanBook, record: Callable[[str], Account | None]) -> Who:
    """The account of the plan file or of Redis; of one that neither has, only `plan` is known."""
    if account_id in book.accounts:
        return Who(book.accounts[account_id], True)
    if account_id.startswith(f"{ANONYMOUS}/"):
        return Who(Account(account_id, book.anonymous_plan or plan), True)
    found = record(account_id)
    return Who(found or Account(account_id, plan), found is not None)
