"""The replay decides as the reference, `core/counting/account.py` with `decide`, would."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.backtest.replay import NOTHING_SENT, Replay
from sidecar.backtest.run import PeriodCache
from sidecar.core.counting.counters import EMPTY
from sidecar.core.events.read import RecordedRequest
from sidecar.core.kinds import MICRO, ConcurrencyLimit, Limit, QuotaLimit, RateLimit
from sidecar.core.model import Account, PlanBook, RequestClass, Team
from sidecar.core.reasons import Reason
from sidecar.core.settlement import REFUNDABLE, OutcomeReason
from tests.support.replays import (
    ACME,
    HOUR,
    METERS,
    START,
    Reference,
    a_book,
    a_plan,
    a_request,
    a_route,
    field_of,
)

PER = st.sampled_from(["account", "account", "key"])
SHADOW = st.sampled_from([False, False, True])
RATES = st.builds(
    lambda n, burst, refill, per, shadow: RateLimit(  # in a plan file, an id has one meter
        f"r{n}", METERS[n], 1, MICRO, burst, refill, per, shadow
    ),
    st.integers(0, 1), st.integers(1, 12),
    st.sampled_from([(5, 1), (5, 3), (7, 86_400), (1, 1)]), PER, SHADOW,
)  # fmt: skip
QUOTAS = st.builds(
    lambda n, units, over, period, per, rollover, shadow: QuotaLimit(
        f"q{n}", METERS[n], units, period, units * over // 100, (), per, rollover, shadow
    ),
    st.integers(0, 1), st.integers(1, 30),
    st.sampled_from([100, 100, 130]), st.sampled_from(["hour", "day", "90s"]), PER,
    st.sampled_from([0, 0, 5]), SHADOW,
)  # fmt: skip
SLOTS = st.builds(
    lambda slots, per, shadow: ConcurrencyLimit("c0", slots, per, shadow),
    st.integers(0, 3), PER, SHADOW,
)  # fmt: skip
COSTS = st.dictionaries(st.sampled_from(METERS), st.integers(0, 9), max_size=2)


@st.composite
def books(draw: st.DrawFn) -> PlanBook:
    routes = [
        a_route("plain", draw(COSTS)),
        a_route("rest", draw(COSTS)),
        a_route("critical", draw(COSTS), RequestClass.CRITICAL),
    ]
    kinds = st.lists(RATES | QUOTAS | SLOTS, max_size=4, unique_by=lambda limit: limit.id)
    refunds = draw(st.sampled_from([frozenset(), frozenset(), frozenset(REFUNDABLE)]))
    plans = [
        a_plan(draw(kinds), name, refunds=refunds if name == "pro" else frozenset())
        for name in ("free", "pro")
    ]
    return a_book(plans, routes)


REQUESTS = st.lists(
    st.builds(
        dict,
        gap=st.sampled_from([0, 1_000, 300_000, 5_000_000]) | st.integers(0, 2 * HOUR),
        key=st.sampled_from(["k1", "k2"]),
        plan=st.sampled_from(["pro", "pro", "free"]),
        route=st.sampled_from(["plain", "rest", "critical"]),
        status=st.sampled_from([200, 503, NOTHING_SENT]),
        reason=st.sampled_from(list(OutcomeReason)),
        latency_ms=st.sampled_from([0, 1, 500, 4_000_000]),
    ),
    max_size=40,
)


def recorded(drawn: Sequence[dict[str, object]]) -> list[RecordedRequest]:
    at, requests = START, []
    for number, one in enumerate(drawn):
        at += int(str(one["gap"]))
        requests.append(a_request(number, at, **{k: v for k, v in one.items() if k != "gap"}))
    return requests


@settings(max_examples=600, deadline=None)
@given(book=books(), drawn=REQUESTS)
def test_I1_a_replay_decides_and_counts_as_the_reference_does(
    book: PlanBook, drawn: list[dict[str, object]]
) -> None:
    replay = Replay(book, ACME, PeriodCache().window, follow=True)
    reference = Reference(book)
    requests = recorded(drawn)
    for request in requests:
        refusal, decision = replay.add(request), reference.decide(request)
        assert (refusal is None) is decision.allowed
        if refusal is not None:
            first = decision.violated[0]
            assert (refusal.limit, refusal.reason) == (first.claim.limit, decision.reason)
            if refusal.reason is not Reason.CONCURRENCY:  # the gate cannot know
                assert refusal.wait_us == decision.retry_us
    last = requests[-1].time_us + 10 * HOUR if requests else START
    replay.pass_time(last)
    reference.pass_time(last)
    same_counters(replay, reference, book)
    report = replay.finish()
    assert {m: one.replayed for m, one in report.units.items() if one.replayed} == {
        m: n for m, n in reference.units.items() if n
    }
    assert {m: one.replayed for m, one in report.overage.items() if one.replayed} == {
        m: n for m, n in reference.overage.items() if n
    }
    assert report.shadowed == dict(reference.shadowed)


TEAMS = st.builds(
    lambda a, b, lends: (Team("a", a, lends[0]), Team("b", b, lends[1])),
    st.integers(1, 60), st.integers(1, 40), st.tuples(st.booleans(), st.booleans()),
)  # fmt: skip
OF_TEAMS = st.lists(st.sampled_from(["a", "a", "b", "", "removed"]), min_size=40, max_size=40)


@settings(max_examples=600, deadline=None)
@given(book=books(), drawn=REQUESTS, teams=TEAMS, team_ids=OF_TEAMS)
def test_I1_a_replay_keeps_the_guarantees_of_teams_as_the_reference_does(
    book: PlanBook, drawn: list[dict[str, object]], teams: tuple[Team, ...], team_ids: list[str]
) -> None:
    account = Account("acme", "pro", teams=teams)
    replay = Replay(book, account, PeriodCache().window)
    reference = Reference(book, account)
    drawn = [
        one | {"team": team, "plan": "pro"} for one, team in zip(drawn, team_ids, strict=False)
    ]
    requests = recorded(drawn)
    for request in requests:
        refusal, decision = replay.add(request), reference.decide(request)
        assert (refusal is None) is decision.allowed
        if refusal is not None:
            first = decision.violated[0]
            assert (refusal.limit, refusal.reason) == (first.claim.limit, decision.reason)
            if refusal.reason is not Reason.CONCURRENCY:
                assert refusal.wait_us == decision.retry_us
    last = requests[-1].time_us + 10 * HOUR if requests else START
    replay.pass_time(last)
    reference.pass_time(last)
    same_counters(replay, reference, book)
    assert replay.finish().shadowed == dict(reference.shadowed)
    for quota, states in replay.counters.teams.items():
        for team, state in states.items():
            if state.used:
                other = reference.state.states[f"{quota}/{team}"]
                # The replay stores a new period only when it is used.
                assert state.used == other.used or state.since_us < other.since_us


def same_counters(replay: Replay, reference: Reference, book: PlanBook) -> None:
    limits: list[Limit] = [limit for plan in book.plans.values() for limit in plan.limits]
    for limit in limits:
        for key in ("k1", "k2"):
            name = limit.id, key if limit.per == "key" else None
            state = reference.state.states.get(field_of(limit, key), EMPTY)
            if isinstance(limit, RateLimit):
                bucket = replay.counters.buckets[name]
                assert (bucket.used, bucket.since) == (state.used, state.since_us)
            elif isinstance(limit, QuotaLimit):
                counter = replay.counters.quotas[name]
                values = (counter.used, counter.since, counter.carried)
                assert values == (state.used, state.since_us, state.carried)
            else:
                assert len(replay.counters.slots[name].ends) == state.used
