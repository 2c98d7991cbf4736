"""The Lua scripts agree with the pure reference through the life of an account."""

from collections.abc import Iterator
from datetime import date

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.core.answers import Hold
from sidecar.core.counting.corrections import NOT_KNOWN, JournalEntries
from sidecar.core.counting.counts import meter_number
from sidecar.core.counting.limits import Grant
from sidecar.core.counting.reservations import NOT_ENDED
from sidecar.core.counting.teams import team_share
from sidecar.core.kinds import MICRO, ConcurrencyLimit, Limit, PeriodLimit, QuotaLimit, RateLimit
from sidecar.core.model import Account, Claim, Team
from sidecar.stores import keys
from sidecar.stores.commands import Commands
from sidecar.stores.scripts import Script
from tests.support.stores.account_replay import ACME, HOUR, START, Both, arguments


@pytest.fixture
def client(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url, decode_responses=False) as connection:
        yield connection


RATES = st.builds(
    lambda number, refill, burst, shadow: RateLimit(
        f"r{number}", "requests", 1, MICRO, burst, refill, shadow=shadow
    ),
    st.integers(0, 1),
    st.sampled_from([(5, 1), (5, 3), (7, 86_400), (1000, 1), (1, 1)]),
    st.integers(1, 50),
    st.booleans(),
)
QUOTAS = st.builds(
    lambda number, units, over, notices, rollover, shadow: QuotaLimit(
        f"q{number}",
        "requests",
        units,
        "hour",
        units * over // 100,
        notices,
        rollover=rollover,
        shadow=shadow,
    ),
    st.integers(0, 1),
    st.integers(1, 40),
    st.sampled_from([100, 100, 120]),
    st.sampled_from([(), (80, 100), (10, 50, 100, 120)]),
    st.sampled_from([0, 0, 7]),
    st.sampled_from([False, False, True]),
)
SLOTS = st.builds(
    lambda slots, shadow: ConcurrencyLimit("c0", slots, shadow=shadow),
    st.integers(0, 3),
    st.sampled_from([False, False, True]),
)
TEAMS = st.builds(
    lambda a, b, lends_a, lends_b: (Team("a", a, lends_a), Team("b", b, lends_b)),
    st.integers(0, 60), st.integers(0, 40), st.booleans(), st.booleans(),
)  # fmt: skip
TEAM_OF_KEY = st.none() | st.tuples(TEAMS, st.sampled_from(["a", "b", "removed", ""]))


def of_team(claims: list[Claim], team: tuple[tuple[Team, ...], str] | None) -> list[Claim]:
    """The claims, each quota followed by the team's share of it, for accounts with teams."""
    found = []
    for claim in claims:
        found.append(claim)
        if team is not None and isinstance(claim.limit, PeriodLimit):
            found.append(Claim(team_share(claim.limit, *team), claim.cost, claim.forced))
    return found


PLAIN_CLAIMS = st.lists(
    st.builds(Claim, RATES | QUOTAS, st.integers(0, 12), st.booleans()), max_size=3,
    unique_by=lambda claim: claim.limit.id,
)  # fmt: skip
CLAIMS = st.builds(of_team, PLAIN_CLAIMS, TEAM_OF_KEY)
PLAIN_QUOTA_CLAIMS = st.lists(
    st.builds(Claim, QUOTAS, st.integers(0, 50), st.just(value=True)), max_size=2,
    unique_by=lambda claim: claim.limit.id,
)  # fmt: skip
QUOTA_CLAIMS = st.builds(of_team, PLAIN_QUOTA_CLAIMS, TEAM_OF_KEY)
REBUILT_CLAIMS = st.lists(
    st.builds(Claim, QUOTAS, st.integers(-20, 50), st.just(value=True)), max_size=2,
    unique_by=lambda claim: claim.limit.id,
)  # fmt: skip
RULES = ["charge", "release", "late charge", "late release"]
STEPS = st.one_of(
    st.tuples(st.just("wait"), st.integers(0, 3 * MICRO) | st.integers(0, 3 * HOUR)),
    st.tuples(st.just("wait"), st.integers(-HOUR // 2, 0)),
    st.tuples(st.just("reserve"), CLAIMS),
    st.tuples(
        st.just("hold"), CLAIMS, st.lists(SLOTS, max_size=1), st.sampled_from(RULES)
    ),
    st.tuples(st.just("settle"), st.integers(0, 5), st.integers(0, 20)),
    st.tuples(st.just("again"), st.integers(0, 5)),
    st.tuples(st.just("renew"), st.integers(0, 5)),
    st.tuples(
        st.just("charge"), QUOTA_CLAIMS, st.integers(0, 3 * HOUR), st.integers(0, 1),
        st.integers(1, 9), st.integers(0, 9),
    ),
    st.tuples(
        st.just("rebuild"), REBUILT_CLAIMS, st.sampled_from([0, 0, 0, 3]),
        st.sampled_from([False, False, False, True]), st.sampled_from([NOT_KNOWN, 0, 3, 12, 40]),
    ),
    st.tuples(
        st.just("grant"), st.integers(0, 3), st.integers(0, 1), st.integers(1, 30),
        st.integers(1, 4 * HOUR), st.integers(-1, 1),
    ),
)  # fmt: skip


def _hold(name: str, rule: str) -> Hold:
    late, _, orphans = rule.rpartition(" ")
    return Hold(name, 60 * MICRO, "release" if orphans == "release" else "charge", late=bool(late))


def a_life(both: Both, steps: list[tuple]) -> None:  # type: ignore[type-arg]
    opened: list[tuple[str, list[Claim]]] = []
    for number, (what, *rest) in enumerate(steps):
        if what == "wait":
            both.now = max(START, both.now + rest[0])
        elif what == "move":
            both.account = Account("acme", "pro", rest[0], rest[1])
        elif what == "reserve":
            if rest[0]:
                both.reserve(rest[0])
        elif what == "hold":
            claims = rest[0] + [Claim(limit, 1, False) for limit in rest[1]]
            if both.reserve(claims, _hold(f"h{number}", rest[2])).granted:
                opened.append((f"h{number}", claims))
        elif what == "settle" and opened:
            hold_id, claims = opened[rest[0] % len(opened)]
            actual = [Claim(c.limit, rest[1], c.forced) for c in claims]
            both.settle(hold_id, actual, billed=rest[1] % 4 > 0)
        elif what == "again" and opened:
            hold_id, claims = opened[rest[0] % len(opened)]
            both.settle(hold_id, claims)
            before = both.stored()
            assert not both.settle(hold_id, claims).granted
            assert both.stored() == before, "a reservation is settled once"
        elif what == "renew" and opened:
            both.renew([opened[rest[0] % len(opened)][0], "unknown"], 60 * MICRO)
        elif what == "charge":
            claims, late_us, journal, first, more = rest
            reported = tuple(
                NOT_ENDED if more == 9 else claim.cost * first // 9 for claim in claims
            )
            entries = JournalEntries(f"j{journal}", first, first + more, reported)
            if both.charge(claims, late_us, entries) == 1:
                assert both.charge(claims, late_us, entries) == 0
        elif what == "rebuild":
            both.rebuild(*rest)
        elif what == "grant":
            name, quota, units, lasts, priority, *meters = rest
            meter = meter_number(meters[0]) if meters else 0
            ends = both.now + lasts
            both.grant(Grant(f"g{name}", f"q/q{quota}", units, ends, priority, meter=meter))


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(STEPS, max_size=30))
def test_I1_scripts_and_reference_agree_through_every_life_of_an_account(
    client: redis.Redis,
    steps: list[tuple],  # type: ignore[type-arg]
) -> None:
    both = Both(client)
    a_life(both, steps)
    assert both.counters() == both.ledger.states


DAY = 24 * HOUR
ZONES = st.sampled_from(["UTC", "Pacific/Honolulu", "Asia/Tokyo", "Asia/Kathmandu", "Europe/Paris"])
ANCHORS = st.none() | st.sampled_from([date(2026, 1, day) for day in (1, 2, 15, 16, 28, 31)])
MOVED_QUOTAS = st.builds(
    lambda number, units, period, meter, rollover: QuotaLimit(
        f"q{number}", meter, units, period, units, (50, 100), rollover=rollover
    ),
    st.integers(0, 1),
    st.integers(5, 40),
    st.sampled_from(["hour", "day", "week", "month", "month", "cycle", "cycle", "90s"]),
    st.sampled_from(["requests", "requests", "requests", "tokens"]),
    st.sampled_from([0, 7]),
)
MOVED_RATES = st.builds(
    lambda meter, refill: RateLimit("r0", meter, 1, MICRO, 20, refill),
    st.sampled_from(["requests", "tokens"]), st.sampled_from([(5, 3), (7, 86_400)]),
)  # fmt: skip
PLAIN_MOVED = st.lists(
    st.builds(Claim, MOVED_QUOTAS | MOVED_RATES, st.integers(0, 12), st.booleans()), min_size=1,
    max_size=3, unique_by=lambda claim: claim.limit.id,
)  # fmt: skip
MOVED = st.builds(of_team, PLAIN_MOVED, st.none() | TEAM_OF_KEY)
MOVED_UNITS, FORCED_UNITS = (
    st.lists(
        st.builds(Claim, MOVED_QUOTAS, st.integers(least, 9), st.just(value=True)), max_size=2,
        unique_by=lambda claim: claim.limit.id,
    )
    for least in (-9, 0)
)  # fmt: skip
MOVES = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([1, HOUR // 2, DAY // 3, DAY, 13 * DAY, 31 * DAY])),
    st.tuples(st.just("wait"), st.sampled_from([0, -1, -HOUR // 2])),
    st.tuples(st.just("move"), ZONES, ANCHORS),
    st.tuples(st.just("reserve"), MOVED),
    st.tuples(st.just("reserve"), MOVED),
    st.tuples(st.just("hold"), MOVED, st.just([]), st.sampled_from(RULES)),
    st.tuples(st.just("settle"), st.integers(0, 5), st.integers(0, 20)),
    st.tuples(st.just("again"), st.integers(0, 5)),
    st.tuples(
        st.just("charge"), FORCED_UNITS, st.sampled_from([0, HOUR, DAY, 20 * DAY]),
        st.integers(0, 1), st.integers(1, 9), st.integers(0, 9),
    ),
    st.tuples(st.just("rebuild"), MOVED_UNITS, st.just(0), st.just(value=False)),
    st.tuples(
        st.just("grant"), st.integers(0, 3), st.integers(0, 1), st.integers(1, 30),
        st.integers(1, 9 * DAY), st.integers(-1, 1), st.sampled_from(["requests", "tokens"]),
    ),
)  # fmt: skip


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(MOVES, min_size=4, max_size=30))
def test_I13_scripts_and_reference_agree_when_zone_anchor_period_and_meter_change(
    client: redis.Redis,
    steps: list[tuple],  # type: ignore[type-arg]
) -> None:
    both = Both(client)
    a_life(both, steps)
    assert both.counters() == both.ledger.states


def test_I13_a_script_asks_for_newer_bounds_if_its_period_ends_at_an_unknown_one(
    client: redis.Redis,
) -> None:
    both, minute = Both(client), 60 * MICRO
    both.account = Account("acme", "pro", "Asia/Kathmandu")  # hours begin at :15
    hourly = [Claim(QuotaLimit("q0", "requests", 9, "hour", 9), 1, False)]
    both.now = START + HOUR + 40 * minute
    both.reserve([Claim(QuotaLimit("q0", "requests", 9, "day", 9), 1, False)])
    both.now += 5 * minute
    both.reserve(hourly)
    both.account = Account("acme", "pro")
    commands = Commands("qs")
    stale = commands.window(hourly[0].limit, both.account, START)
    assert stale.end <= both.now < stale.after
    sent = commands.claims(Script("", b"", b""), both.account, "k1", hourly, 0, leases=False)
    assert both.run("reserve", arguments(sent)) == [-1, both.now]
    assert both.reserve(hourly).ends_us == (START + 3 * HOUR,)


OF_TEAM = st.builds(
    lambda team, cost, forced: of_team(
        [Claim(QuotaLimit("q0", "requests", 100, "hour", 110, rollover=10), cost, forced)],
        ((Team("a", 50), Team("b", 30, lends=False)), team),
    ),
    st.sampled_from(["a", "a", "b", ""]), st.integers(0, 40),
    st.sampled_from([False, False, False, True]),
)  # fmt: skip
TEAM_STEPS = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([MICRO, 61 * MICRO, HOUR // 10, HOUR // 2])),
    st.tuples(st.just("reserve"), OF_TEAM),
    st.tuples(st.just("reserve"), OF_TEAM),
    st.tuples(st.just("hold"), OF_TEAM, st.just([]), st.sampled_from(RULES)),
    st.tuples(st.just("settle"), st.integers(0, 5), st.integers(0, 40)),
    st.tuples(
        st.just("charge"), OF_TEAM, st.integers(0, HOUR), st.integers(0, 1),
        st.integers(1, 9), st.integers(0, 9),
    ),
    st.tuples(
        st.just("grant"), st.integers(0, 3), st.just(0), st.integers(1, 30),
        st.integers(1, HOUR), st.just(0),
    ),
)  # fmt: skip


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(TEAM_STEPS, min_size=6, max_size=20))
def test_I1_scripts_and_reference_agree_on_teams_that_share_a_quota(
    client: redis.Redis,
    steps: list[tuple],  # type: ignore[type-arg]
) -> None:
    both = Both(client)
    a_life(both, steps)
    assert both.counters() == {name: state for name, state in both.ledger.states.items() if state}


def test_I9_the_state_and_its_leases_always_have_a_ttl(client: redis.Redis) -> None:
    both = Both(client)
    limit: Limit = ConcurrencyLimit("c0", 2)
    both.reserve([Claim(limit, 1, False)], Hold("h", 60 * MICRO))
    assert client.pttl(keys.state("qs", ACME.id)) > 0
    assert client.pttl(keys.leases("qs", ACME.id)) > 0


def test_I9_a_missing_ttl_is_repaired_within_a_minute(client: redis.Redis) -> None:
    both = Both(client)
    claims = [Claim(QuotaLimit("q0", "requests", 9, "hour", 9), 1, False)]
    both.reserve(claims)
    client.persist(keys.state("qs", ACME.id))
    both.now += 59 * MICRO
    both.reserve(claims)
    assert client.pttl(keys.state("qs", ACME.id)) == -1
    both.now += MICRO
    both.reserve(claims)
    assert client.pttl(keys.state("qs", ACME.id)) > 35 * 86_400_000


def test_I8_a_clock_that_steps_back_grants_nothing(client: redis.Redis) -> None:
    both = Both(client)
    claims = [Claim(RateLimit("r0", "requests", 1, MICRO, 2, (1, 1)), 1, False)]
    steps = [0, 0, -HOUR, HOUR, MICRO, 0]
    granted = []
    for step in steps:
        both.now += step
        granted.append(both.reserve(claims).granted)
    assert granted == [True, True, False, False, True, False]


def test_I5_releasing_a_request_returns_the_units_that_packs_paid(client: redis.Redis) -> None:
    both = Both(client)
    claims = [Claim(QuotaLimit("q0", "requests", 4, "hour", 4), 9, False)]
    for name, lasts in (("first", HOUR), ("second", 2 * HOUR)):
        both.grant(Grant(name, "q/q0", 3, both.now + lasts))
    assert both.reserve(claims, Hold("h", 60 * MICRO, "release")).granted
    assert [grant.used for grant in both.ledger.grants] == [3, 2]
    both.now += 60 * MICRO
    both.sweep()
    assert [grant.used for grant in both.ledger.grants] == [0, 0]
    assert both.peek(claims).granted
