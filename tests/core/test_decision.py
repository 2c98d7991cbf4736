"""Claims + answer → decision, by tables and against a naive model in fractions."""

from dataclasses import replace
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.answers import Answer, QuotaDetail
from sidecar.core.counting.counters import State
from sidecar.core.counting.limits import burn, give_back, notify
from sidecar.core.decision import decide, overage_of, without_limits, without_store
from sidecar.core.kinds import MICRO, UNBOUNDED, ConcurrencyLimit, Limit, QuotaLimit, RateLimit
from sidecar.core.model import Claim, Entitlement, Plan, RequestClass, Route
from sidecar.core.reasons import NO_OVERAGE, Decision, Reason
from sidecar.errors import StoreUnavailable

NOW = 1_790_000_000_000_000
END = NOW + 1_000 * MICRO
GUARD = RateLimit("critical", "calls", 100, MICRO, 200, (100, 1))
RATE = RateLimit("per-second", "requests", 5, MICRO, 10, (5, 1))
QUOTA = QuotaLimit("monthly", "requests", 1000, "month", 1000, (80, 90, 100))
SLOTS = ConcurrencyLimit("in-flight", 3)
SOFT = QuotaLimit("soft", "requests", 1000, "month", 1200, (80, 100, 120))


def an_entitlement(*claims: Claim) -> Entitlement:
    limits = tuple(claim.limit for claim in claims)
    plan = Plan("free", 0, frozenset(), limits, GUARD, "deny")
    route = Route("rest", "/**", None, "/**", RequestClass.STANDARD, frozenset(), ())
    return Entitlement(plan, route, claims, (), None, b"", ())


def decided(
    *rows: tuple[Limit, int, int],
    granted: bool = True,
    forced: bool = False,
    details: tuple[QuotaDetail, ...] = (),
) -> Decision:
    """Decide rows of (limit, cost, used in Redis)."""
    claims = (Claim(limit, cost, forced and limit is not GUARD) for limit, cost, _ in rows)
    ends = tuple(END if isinstance(limit, QuotaLimit) else 0 for limit, _, _ in rows)
    answer = Answer(granted, NOW, tuple(used for _, _, used in rows), ends, details)
    return decide(an_entitlement(*claims), answer)


def test_a_request_within_its_limits_is_allowed_and_reports_the_tightest() -> None:
    decision = decided((RATE, 1, 3 * MICRO + 1), (QUOTA, 1, 100))
    assert (decision.allowed, decision.reason, decision.now_us) == (True, Reason.OK, NOW)
    assert decision.tightest is not None
    told = decision.tightest
    assert (told.claim.limit, told.limit_units, told.used, told.remaining) == (RATE, 10, 4, 6)
    assert told.reset_us == NOW + 1  # one micro-unit comes back within a microsecond
    assert (decision.violated, decision.retry_us, decision.overage) == ((), None, NO_OVERAGE)


def test_an_unused_bucket_has_no_reset() -> None:
    decision = decided((RATE, 0, 0))
    assert decision.tightest is not None
    assert (decision.tightest.remaining, decision.tightest.reset_us) == (10, None)


def test_on_a_tie_the_quota_is_reported() -> None:
    rate, quota = (RATE, 1, 10 * MICRO), (QUOTA, 1, 1000)
    for decision in (decided(rate, quota), decided(quota, rate)):
        assert decision.tightest is not None
        assert (decision.tightest.claim.limit, decision.tightest.reset_us) == (QUOTA, END)


def test_the_critical_guard_is_not_reported() -> None:
    assert decided((GUARD, 1, 150 * MICRO)).tightest is None


def test_a_quota_of_zero_is_used_up() -> None:
    nothing = QuotaLimit("none", "requests", 0, "day", 0)
    decision = decided((nothing, 1, 1), (RATE, 1, 10 * MICRO), forced=True)
    assert decision.reason is Reason.CRITICAL
    assert decision.tightest is not None
    assert (decision.tightest.claim.limit, decision.tightest.remaining) == (nothing, 0)


@pytest.mark.parametrize(
    ("rows", "forced", "reason"),
    [
        ([(SOFT, 1, 1000)], False, Reason.OK),
        ([(SOFT, 1, 1001)], False, Reason.OVERAGE),
        ([(SOFT, 1, 1200)], True, Reason.OVERAGE),
        ([(SOFT, 1, 1201)], True, Reason.CRITICAL),
        ([(replace(SOFT, shadow=True), 1, 1001)], False, Reason.OK),
        ([(replace(SOFT, shadow=True), 1, 1201)], True, Reason.CRITICAL),
        ([(RATE, 1, 10 * MICRO)], True, Reason.OK),
        ([(RATE, 1, 10 * MICRO + 1)], True, Reason.CRITICAL),
        ([(RATE, 1, 11 * MICRO), (SOFT, 1, 1100)], True, Reason.CRITICAL),
        ([(SOFT, 1, 1100), (RATE, 1, 11 * MICRO)], True, Reason.CRITICAL),
    ],
)
def test_the_reason_names_what_was_exceeded(
    rows: list[tuple[Limit, int, int]], forced: bool, reason: Reason
) -> None:
    assert decided(*rows, forced=forced).reason is reason


def test_I3_a_critical_request_beyond_every_limit_is_allowed() -> None:
    decision = decided((GUARD, 1, MICRO), (RATE, 1, 99 * MICRO), (QUOTA, 1, 5000), forced=True)
    assert (decision.allowed, decision.reason) == (True, Reason.CRITICAL)
    assert decision.tightest is not None
    assert decision.tightest.remaining == 0


def test_overage_is_what_the_store_reports() -> None:
    assert decided((SOFT, 10, 1003)).overage is NO_OVERAGE  # of requests in flight, or of others
    assert decided((SOFT, 10, 1003), details=(QuotaDetail(overage=3),)).overage.meters == (
        ("requests", 3),
    )


def test_a_quota_in_shadow_has_no_overage_and_others_of_its_meter_keep_theirs() -> None:
    tried = QuotaLimit("tried", "requests", 500, "week", 500, shadow=True)
    details = (QuotaDetail(overage=3), QuotaDetail(overage=10))
    decision = decided((SOFT, 10, 1003), (tried, 10, 1003), details=details)
    assert decision.overage.meters == (("requests", 3),)
    assert decision.overage.limits == (("soft", 3),)
    alone = decided((tried, 10, 1003), details=(QuotaDetail(overage=10),))
    assert alone.overage is NO_OVERAGE and alone.shadowed == ("tried",)


def test_overage_of_a_meter_with_several_quotas_is_the_largest() -> None:
    other = QuotaLimit("weekly", "requests", 500, "week", 5000)
    tokens = QuotaLimit("tokens", "tokens", 10, "week", 50)
    details = (QuotaDetail(overage=3), QuotaDetail(overage=10), QuotaDetail(overage=2))
    decision = decided((SOFT, 10, 1003), (other, 10, 1003), (tokens, 4, 12), details=details)
    assert decision.overage.meters == (("requests", 10), ("tokens", 2))
    assert decision.overage.limits == (("soft", 3), ("weekly", 10), ("tokens", 2))
    answer = Answer(True, NOW, (0, 0, 0), (END, END, END), details)
    claims = [Claim(limit, 1, False) for limit in (SOFT, other, tokens)]
    assert overage_of(claims, answer) == decision.overage
    assert overage_of(claims, answer._replace(details=())) is NO_OVERAGE


@pytest.mark.parametrize(
    ("notified", "used", "percents"),
    [(0, 799, []), (0, 800, [80]), (80, 801, []), (80, 899, []), (0, 900, [80, 90]),
     (50, 1000, [80, 90, 100]), (100, 1000, [])],
)  # fmt: skip
def test_a_threshold_is_reported_when_it_is_reached_for_the_first_time(
    notified: int, used: int, percents: list[int]
) -> None:
    crossings = decided((QUOTA, 1, used), details=(QuotaDetail(notified),)).crossings
    assert [crossing.percent for crossing in crossings] == percents
    assert all(c.used == used and c.period_end_us == END and c.limit is QUOTA for c in crossings)


def test_a_threshold_between_units_is_reached_by_the_next_whole_one() -> None:
    seven = QuotaLimit("seven", "requests", 7, "day", 7, (80,))  # 5.6 units
    assert not decided((seven, 1, 5), details=(QuotaDetail(),)).crossings
    assert decided((seven, 1, 6), details=(QuotaDetail(),)).crossings


@given(st.lists(st.integers(-20, 40), max_size=80), st.integers(1, 300))
def test_each_threshold_is_reported_once_for_any_use_and_return(
    costs: list[int], units: int
) -> None:
    limit = QuotaLimit("q", "requests", units, "day", UNBOUNDED, (50, 80, 100, 120))
    state, most, told = State(), 0, []
    for cost in costs:
        if cost >= 0:
            after = notify(limit, burn(limit, state, (), cost)[0])
        else:
            after = give_back(units, state, (), -cost)[0]
        details = (QuotaDetail(state.notified),)
        told += [c.percent for c in decided((limit, cost, after.used), details=details).crossings]
        state, most = after, max(most, after.used)
    assert told == [p for p in limit.notices if most >= Fraction(units * p, 100)]


def test_carried_over_units_and_grants_can_be_used() -> None:
    decision = decided((QUOTA, 1, 1010), details=(QuotaDetail(100, 50, 40, 0),))
    assert decision.tightest is not None
    told = decision.tightest
    assert (told.limit_units, told.used, told.remaining) == (1090, 1010, 80)
    assert (decision.reason, decision.overage) == (Reason.OK, NO_OVERAGE)


def test_a_refusal_for_slots_has_no_reset() -> None:
    decision = decided((SLOTS, 1, 3), granted=False)
    assert (decision.reason, decision.retry_us) == (Reason.CONCURRENCY, MICRO)
    assert decision.violated[0].reset_us is None
    both = decided((SLOTS, 1, 3), (RATE, 1, 10 * MICRO), granted=False)
    assert (both.reason, both.retry_us) == (Reason.RATE, 200_000)


@pytest.mark.parametrize(
    ("limit", "used", "end", "shadowed"),
    [
        (replace(QUOTA, shadow=True), 1000, END, ()),
        (replace(QUOTA, shadow=True), 1001, END, ("monthly",)),
        (replace(RATE, shadow=True), 10 * MICRO, 0, ()),
        (replace(RATE, shadow=True), 10 * MICRO, -1, ("per-second",)),
        (ConcurrencyLimit("in-flight", 3, shadow=True), 3, 0, ()),
        (ConcurrencyLimit("in-flight", 3, shadow=True), 4, 0, ("in-flight",)),
    ],
)
def test_a_limit_in_shadow_is_listed_if_it_would_have_refused_and_never_reported(
    limit: Limit, used: int, end: int, shadowed: tuple[str, ...]
) -> None:
    claims = (Claim(limit, 1, False),)
    decision = decide(an_entitlement(*claims), Answer(True, NOW, (used,), (end,)))
    assert (decision.allowed, decision.shadowed, decision.tightest) == (True, shadowed, None)


@pytest.mark.parametrize(
    ("rows", "reason", "violated", "retry_us"),
    [
        ([(RATE, 1, 10 * MICRO)], Reason.RATE, ["per-second"], 200_000),
        ([(RATE, 1, 9 * MICRO + 1)], Reason.RATE, ["per-second"], 1),
        ([(RATE, 11, 0)], Reason.RATE, ["per-second"], None),
        ([(QUOTA, 1, 1000)], Reason.QUOTA, ["monthly"], 1_000 * MICRO),
        ([(QUOTA, 10, 995)], Reason.QUOTA, ["monthly"], 1_000 * MICRO),
        ([(QUOTA, 1001, 0)], Reason.QUOTA, ["monthly"], None),
        ([(SOFT, 1, 1199), (QUOTA, 1, 1000)], Reason.QUOTA, ["monthly"], 1_000 * MICRO),
        ([(RATE, 1, 10 * MICRO), (QUOTA, 1, 1000)], Reason.QUOTA, ["monthly", "per-second"],
         1_000 * MICRO),
        ([(QUOTA, 11, 1000), (RATE, 11, 0)], Reason.RATE, ["per-second", "monthly"], None),
        ([(GUARD, 1, 200 * MICRO), (RATE, 1, 0)], Reason.ABUSE, ["critical"], 10_000),
    ],
)  # fmt: skip
def test_a_refusal_names_the_limits_that_refuse_and_when_the_request_fits(
    rows: list[tuple[Limit, int, int]], reason: Reason, violated: list[str], retry_us: int | None
) -> None:
    decision = decided(*rows, granted=False)
    assert (decision.allowed, decision.reason) == (False, reason)
    assert [standing.claim.limit.id for standing in decision.violated] == violated
    assert decision.retry_us == retry_us
    shown = None if reason is Reason.ABUSE else decision.violated[0]
    assert decision.tightest == shown


def test_I3_a_forced_claim_never_refuses() -> None:
    decision = decided((GUARD, 1, 200 * MICRO), (QUOTA, 1, 9999), granted=False, forced=True)
    assert [standing.claim.limit for standing in decision.violated] == [GUARD]


def test_an_answer_that_contradicts_itself_cannot_be_trusted() -> None:
    with pytest.raises(StoreUnavailable):
        decided((RATE, 1, 0), granted=False)
    with pytest.raises(StoreUnavailable):
        decide(an_entitlement(Claim(RATE, 1, False)), Answer(True, NOW, (), ()))


def test_a_request_without_an_answer_is_allowed_with_that_reason() -> None:
    assert without_store(an_entitlement()).reason is Reason.STORE_DOWN
    assert without_limits(an_entitlement()).reason is Reason.OK
    assert without_store(an_entitlement()).allowed
    assert without_limits(an_entitlement()).allowed


RATES = st.builds(
    lambda p, q, burst: RateLimit("r", "requests", p, q, burst, (p, q)),
    st.integers(1, 1000), st.integers(1, 1000), st.integers(1, 50),
)  # fmt: skip
QUOTAS = st.builds(
    lambda units, more: QuotaLimit("q", "requests", units, "day", units + more),
    st.integers(1, 50), st.integers(0, 10),
)  # fmt: skip


@given(RATES, st.integers(0, 60), st.integers(0, 60 * MICRO))
def test_a_request_fits_a_rate_at_the_reported_instant_and_not_before(
    limit: RateLimit, cost: int, used: int
) -> None:
    if used + cost * MICRO <= limit.burst * MICRO:
        return
    decision = decided((limit, cost, used), granted=False)
    if cost > limit.burst:
        assert decision.retry_us is None
        return
    drain = Fraction(*limit.refill)
    missing = used + cost * MICRO - limit.burst * MICRO
    assert decision.retry_us == ceil(missing / drain)


@given(st.lists(st.tuples(RATES | QUOTAS, st.integers(0, 60)), max_size=5))
def test_the_tightest_limit_has_the_smallest_part_left(rows: list[tuple[Limit, int]]) -> None:
    scaled = [
        (limit, 1, used * (MICRO if isinstance(limit, RateLimit) else 1)) for limit, used in rows
    ]
    decision = decided(*scaled)
    shares = [
        Fraction(max(0, (limit.burst if isinstance(limit, RateLimit) else limit.units) - used),
                 limit.burst if isinstance(limit, RateLimit) else limit.units)
        for limit, used in rows
    ]  # fmt: skip
    if decision.tightest is None:
        assert not rows
    else:
        told = decision.tightest
        assert Fraction(told.remaining, told.limit_units) == min(shares)
        assert told.reset_us is None or told.reset_us > NOW


@pytest.mark.parametrize(
    ("limit", "fits", "too_much"),
    [
        (RATE, 9 * MICRO, 9 * MICRO + 1),
        (SLOTS, 2, 3),
        (QUOTA, 999, 1000),
        (SOFT, 1199, 1200),
    ],
)
def test_a_refusal_names_no_limit_that_the_request_would_fill_exactly(
    limit: Limit, fits: int, too_much: int
) -> None:
    spent = QuotaLimit("daily", "requests", 10, "day", 10)
    for used, expected in ((fits, {"daily"}), (too_much, {"daily", limit.id})):
        decision = decided((spent, 1, 10), (limit, 1, used), granted=False)
        assert {status.claim.limit.id for status in decision.violated} == expected


@pytest.mark.parametrize(("cost", "fits_later"), [(1000, True), (1001, False)])
def test_a_request_of_a_whole_quota_fits_after_the_reset(cost: int, fits_later: bool) -> None:
    decision = decided((QUOTA, cost, 1), granted=False)
    assert decision.retry_us == (END - NOW if fits_later else None)
