"""Local shares of a limit: never more than the whole, and true refusals."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.answers import Answer, QuotaDetail
from sidecar.core.counting import account as accounts
from sidecar.core.counting.counters import State
from sidecar.core.counting.counts import counts_of
from sidecar.core.counting.limits import Window
from sidecar.core.counting.reservations import NEW
from sidecar.core.counting.survey import BoundClaim
from sidecar.core.decision import decide
from sidecar.core.kinds import MICRO, ConcurrencyLimit, Limit, QuotaLimit, RateLimit
from sidecar.core.model import Claim, Entitlement, Plan, RequestClass, Route
from sidecar.core.reasons import NO_OVERAGE, Decision, Reason
from sidecar.core.shares import (
    NEVER_SEEN,
    LocalClaim,
    Snapshot,
    initial_bucket,
    local_share,
    snapshot_for,
    snapshots_of,
    whole_limit,
)
from sidecar.errors import StoreUnavailable

NOW = 1_790_000_000 * MICRO
END = NOW + 1_000 * MICRO
QUOTA = QuotaLimit("monthly", "requests", 100, "month", 100, (80,), rollover=10)
RATE = RateLimit("per-second", "requests", 5, MICRO, 10, (5, 1))
SLOTS = ConcurrencyLimit("in-flight", 5)
GUARD = RateLimit("critical", "calls", 100, MICRO, 200, (100, 1))


@pytest.mark.parametrize(
    ("look", "ways", "cap", "units"),
    [
        (Snapshot(NOW, 40, END), 2, 30, 60),
        (Snapshot(NOW, 40, END), 7, 8, 60),  # rounded down
        (Snapshot(NOW, 100, END), 2, 0, 0),
        (Snapshot(NOW, 130, END), 2, 0, 0),  # debt is not given out
        (Snapshot(NOW, 40, END, more=21), 2, 40, 81),  # carried over, or left in grants
        (Snapshot(NOW, 40, NOW), 2, 50, 100),  # that period is over
        (NEVER_SEEN, 3, 33, 100),
        (NEVER_SEEN, 1, 100, 100),
    ],
)
def test_a_share_of_a_quota_is_the_divided_rest_rounded_down(
    look: Snapshot, ways: int, cap: int, units: int
) -> None:
    """Overage begins only where the whole quota is used up, as far as this sidecar knows."""
    share = local_share(QUOTA, look, ways, NOW)
    assert isinstance(share, QuotaLimit)
    assert (share.id, share.units, share.cap) == ("monthly", units, cap)
    assert (share.notices, share.rollover) == ((), 0)


@pytest.mark.parametrize(
    ("limit", "ways", "most"), [(RATE, 3, 3), (RATE, 20, 1), (SLOTS, 2, 2), (SLOTS, 9, 1)]
)
def test_a_share_has_at_least_one_unit_of_a_bucket_and_one_slot(
    limit: Limit, ways: int, most: int
) -> None:
    share = local_share(limit, NEVER_SEEN, ways, NOW)
    assert most == (share.burst if isinstance(share, RateLimit) else getattr(share, "slots", None))


def test_shares_of_zero_slots_are_zero() -> None:
    assert local_share(replace(SLOTS, slots=0), NEVER_SEEN, 2, NOW) == replace(SLOTS, slots=0)


@given(
    st.integers(1, 50), st.integers(0, 60 * MICRO), st.integers(0, 20 * MICRO), st.integers(1, 9)
)
def test_I1_full_buckets_of_all_shares_hold_what_the_whole_held_and_refill_as_fast(
    burst: int, used: int, ago: int, ways: int
) -> None:
    limit = replace(RATE, burst=burst)
    share = local_share(limit, NEVER_SEEN, ways, NOW)
    assert isinstance(share, RateLimit)
    state = initial_bucket(limit, share, Snapshot(NOW - ago, used), ways, NOW)
    left = max(0, share.burst * MICRO - state.used)
    whole = min(burst * MICRO, burst * MICRO - used + ago * 5)
    assert left * ways <= max(0, whole) + 5 * ways
    assert share.refill[0] * limit.refill[1] * ways == limit.refill[0] * share.refill[1]


def decided(own: LocalClaim, look: Snapshot, granted: bool) -> Decision:
    used, details = whole_limit(own, look, NOW)
    plan = Plan("free", 0, frozenset(), (own.claim.limit,), GUARD, "local")
    route = Route("rest", "/**", None, "/**", RequestClass.STANDARD, frozenset(), ())
    entitlement = Entitlement(plan, route, (own.claim,), (), None, b"", ())
    ends = (END if isinstance(own.claim.limit, QuotaLimit) else 0,)
    return decide(entitlement, Answer(granted, NOW, (used,), ends, (details,), local=True))


def test_a_local_admission_says_so_and_reports_no_remainder() -> None:
    share = local_share(QUOTA, Snapshot(NOW, 40, END), 2, NOW)
    decision = decided(LocalClaim(Claim(QUOTA, 1, False), share, 5), Snapshot(NOW, 40, END), True)
    assert (decision.allowed, decision.reason) == (True, Reason.STORE_DOWN)
    assert (decision.tightest, decision.overage, decision.crossings) == (None, NO_OVERAGE, ())


def test_I10_a_quota_that_is_known_to_be_used_up_refuses_until_its_end() -> None:
    look = Snapshot(NOW, 97, END)
    share = local_share(QUOTA, look, 1, NOW)
    decision = decided(LocalClaim(Claim(QUOTA, 1, False), share, 3), look, False)
    assert (decision.reason, decision.retry_us) == (Reason.QUOTA, END - NOW)
    assert decision.violated[0].used == 100


@pytest.mark.parametrize("limit", [QUOTA, SLOTS])
def test_I10_a_used_up_share_does_not_claim_that_the_limit_is_used_up(limit: Limit) -> None:
    share = local_share(limit, NEVER_SEEN, 2, NOW)
    most = share.cap if isinstance(share, QuotaLimit) else getattr(share, "slots", 0)
    with pytest.raises(StoreUnavailable):
        decided(LocalClaim(Claim(limit, 1, False), share, most), NEVER_SEEN, False)


@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 12 * MICRO))
def test_I10_a_rate_reports_when_its_share_has_enough(cost: int, ways: int, used: int) -> None:
    """`whole_limit` and the reference agree on the instant from which the request fits."""
    share = local_share(RATE, NEVER_SEEN, ways, NOW)
    assert isinstance(share, RateLimit)
    claim = Claim(RATE, cost, False)
    own = LocalClaim(claim, share, used)
    if used + share.weight(claim.cost) <= share.full:
        return
    if share.burst < cost <= RATE.burst:
        with pytest.raises(StoreUnavailable):
            decided(own, NEVER_SEEN, False)
        return
    decision = decided(own, NEVER_SEEN, False)
    assert decision.reason is Reason.RATE
    if cost > RATE.burst:
        assert decision.retry_us is None
        return
    assert decision.retry_us is not None

    def fits(at_us: int) -> bool:
        start = replace(NEW, states={"r": State(used, NOW)})
        ask = BoundClaim("r", Claim(share, cost, False))
        return accounts.reserve(start, [ask], at_us)[0].granted

    assert fits(NOW + decision.retry_us)
    assert not fits(NOW + max(0, decision.retry_us - 2 * ways))


@given(
    st.integers(0, 200), st.integers(0, 120), st.integers(1, 9),
    st.lists(st.integers(0, 9), max_size=60),
)  # fmt: skip
def test_I1_all_shares_together_allow_at_most_what_was_left(
    cap: int, used: int, ways: int, costs: list[int]
) -> None:
    limit = replace(QUOTA, units=cap, cap=cap, rollover=0)
    share = local_share(limit, Snapshot(NOW, used, END), ways, NOW)
    window = Window(NOW - MICRO, END, END + MICRO, NOW - 2 * MICRO)
    passed = 0
    for _ in range(ways):
        account = NEW
        for cost in costs:
            asks = [BoundClaim("q", Claim(share, cost, False), window)]
            answer, account = accounts.reserve(account, asks, NOW)
            passed += cost if answer.granted else 0
    assert passed <= max(0, cap - used)


@pytest.mark.parametrize("limit", [QUOTA, RATE])
@pytest.mark.parametrize("other", [replace(QUOTA, meter="tokens"), replace(QUOTA, period="hour")])
def test_I13_a_snapshot_of_another_meter_or_period_is_not_used(
    limit: Limit, other: QuotaLimit
) -> None:
    snapshot = Snapshot(NOW, 70 * MICRO, END, counts=counts_of(other))
    assert snapshot_for(limit, snapshot, NOW) is NEVER_SEEN
    assert local_share(limit, snapshot, 2, NOW) == local_share(limit, NEVER_SEEN, 2, NOW)
    cycle = Snapshot(NOW, 70, END, counts=counts_of(replace(QUOTA, period="cycle")))
    assert snapshot_for(QUOTA, cycle, NOW) is cycle


def test_snapshots_are_in_the_order_of_the_claims() -> None:
    claims = (Claim(QUOTA, 1, False), Claim(RATE, 1, False))
    plain = Answer(True, NOW, (7, MICRO), (END, 0))
    quota, rate = counts_of(QUOTA), counts_of(RATE)
    assert snapshots_of(claims, plain) == (
        Snapshot(NOW, 7, END, counts=quota),
        Snapshot(NOW, MICRO, counts=rate),
    )
    rich = plain._replace(details=(QuotaDetail(carried=3, left=4, burned=1), QuotaDetail()))
    assert snapshots_of(claims, rich)[0] == Snapshot(NOW, 7, END, 7, quota)
