"""Accounts that move to another plan: the direction, and the end of their period."""

from datetime import UTC, date, datetime

import pytest

from sidecar.core.kinds import MICRO, Limit, QuotaLimit, RateLimit
from sidecar.core.model import Account, Key, Plan, PlanBook, PlanChange
from sidecar.core.plan_changes import after_change, is_downgrade, period_end

GUARD = RateLimit("critical", "calls", 1000, MICRO, 5000, (1000, 1))
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def us(moment: datetime) -> int:
    return int(moment.timestamp()) * MICRO


def a_plan(name: str, rank: int, *limits: Limit) -> Plan:
    return Plan(name, rank, frozenset(), limits, GUARD, "local")


def a_quota(period: str, per: str = "account") -> QuotaLimit:
    return QuotaLimit(period, "requests", 10, period, 10, (), per)  # type: ignore[arg-type]


def test_a_key_moves_with_its_account_and_is_one_object() -> None:
    key = Key("k1", Account("acme", "pro", next_plan=PlanChange("free", us(NOW))))
    after = after_change(key)
    assert (after.account.plan, after.account.next_plan, after.id) == ("free", None, "k1")
    assert after_change(key) is after
    assert after_change(after) is after


@pytest.mark.parametrize(
    ("plan", "to", "down"),
    [("pro", "free", True), ("free", "pro", False), ("pro", "pro", False), ("gone", "free", False)],
)
def test_plan_order_decides_what_is_a_downgrade(plan: str, to: str, down: bool) -> None:
    plans = {name: a_plan(name, rank) for rank, name in enumerate(("free", "builder", "pro"))}
    book = PlanBook("sha256:x", {}, (), plans, {})
    assert is_downgrade(book, plan, to) is down


@pytest.mark.parametrize(
    ("limits", "end"),
    [
        ((a_quota("hour"), a_quota("month")), datetime(2026, 12, 1, tzinfo=UTC)),
        ((a_quota("cycle"), a_quota("day")), datetime(2026, 12, 15, tzinfo=UTC)),
        ((a_quota("hour"), a_quota("month", per="key")), datetime(2026, 11, 24, 13, tzinfo=UTC)),
        ((RateLimit("r", "requests", 1, MICRO, 1, (1, 1)),), None),
        ((), None),
    ],
)
def test_the_longest_period_is_the_one_that_ends(
    limits: tuple[Limit, ...], end: datetime | None
) -> None:
    account = Account("acme", "pro", anchor=date(2026, 1, 15))
    found = period_end(a_plan("pro", 1, *limits), account, us(NOW))
    assert found == (None if end is None else us(end))
