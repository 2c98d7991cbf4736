"""Usage stays when bounds of periods move, and when a limit counts something else for a while."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.answers import Hold
from sidecar.core.counting import account as accounts
from sidecar.core.counting import limits
from sidecar.core.counting.counters import (
    EMPTY,
    MOST_SUSPENDED,
    State,
    counters_of,
    in_use,
    with_change,
)
from sidecar.core.counting.counts import counts_of, meter_number, meter_of
from sidecar.core.counting.limits import Grant, current
from sidecar.core.counting.orphans import SWEPT, sweep
from sidecar.core.counting.reservations import NEW, AccountState
from sidecar.core.kinds import MICRO, QuotaLimit, RateLimit
from sidecar.core.model import Account, Claim
from sidecar.core.periods import Window, window_at
from sidecar.stores.memory import bind_claims

HOUR = 3_600 * MICRO
DAY = 24 * HOUR
LONGEST = 31 * DAY + HOUR


def at(text: str) -> int:
    """An instant in UTC, in µs."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * MICRO


def quota(period: str = "month", **more: object) -> QuotaLimit:
    return QuotaLimit("m", "requests", 5, period, 5, **more)  # type: ignore[arg-type]


class Moving:
    """The counter of one quota of an account whose calendar moves. `use` counts one unit."""

    def __init__(self, timezone: str = "UTC", anchor: date | None = None) -> None:
        self.account = Account("acme", "p", timezone, anchor)
        self.state = EMPTY

    def use(self, instant: str, limit: QuotaLimit | None = None, **move: object) -> State:
        """Move the account, then count a unit."""
        self.account = replace(self.account, **move)  # type: ignore[arg-type]
        limit, now = limit or quota(), at(instant)
        state, _ = current(limit, self.state, window_at(limit, self.account, now), now)
        self.state = with_change(limit, state, limits.add(limit, state, (), 1)[0])
        return self.state

    def period(self) -> tuple[int, int]:
        return self.state.since_us, self.state.end_us


@pytest.mark.parametrize(
    ("zone", "end"),
    [
        ("America/New_York", "2026-12-01T05:00"),
        ("Pacific/Honolulu", "2026-12-01T10:00"),
        ("Asia/Tokyo", "2026-11-30T15:00"),
        ("Asia/Kathmandu", "2026-11-30T18:15"),
    ],
)
def test_I13_03_another_time_zone_moves_the_end_of_the_month_and_keeps_usage(
    zone: str, end: str
) -> None:
    moving = Moving()
    for day in (1, 15, 29):
        moving.use(f"2026-11-{day:02}T12:00")
    assert moving.use("2026-11-29T13:00", timezone=zone).used == 4
    assert moving.period() == (at("2026-11-01T00:00"), at(end))
    assert moving.use("2026-12-01T20:00").used == 1
    assert moving.state.since_us == at(end)


def test_I13_a_month_that_is_over_in_the_new_time_zone_ends_when_it_would_have_ended() -> None:
    moving = Moving()
    moving.use("2026-11-15T12:00")
    assert moving.use("2026-11-30T16:00", timezone="Asia/Tokyo").used == 2
    assert moving.period() == (at("2026-11-01T00:00"), at("2026-12-01T00:00"))
    assert moving.use("2026-12-01T00:00").used == 1
    assert moving.period() == (at("2026-12-01T00:00"), at("2026-12-31T15:00"))


def test_I13_a_month_that_has_begun_goes_on_where_it_has_not() -> None:
    moving = Moving()
    moving.use("2026-12-01T03:00")
    assert moving.use("2026-12-01T04:00", timezone="Pacific/Honolulu").used == 2
    assert moving.period() == (at("2026-12-01T00:00"), at("2027-01-01T10:00"))


@pytest.mark.parametrize(
    ("anchor", "end"),
    [
        (4, "2026-12-04"),  # it has run for half a period by then
        (2, "2026-12-02"),
        (21, "2026-11-21"),
        (20, "2026-12-05"),  # the bound has passed, so the old one stays
        (16, "2026-12-16"),
        (6, "2026-12-06"),
    ],
)
def test_I13_another_billing_anchor_moves_the_end_of_the_cycle_and_keeps_usage(
    anchor: int, end: str
) -> None:
    moving, cycle = Moving(anchor=date(2026, 1, 5)), quota("cycle")
    for day in range(6, 10):
        moving.use(f"2026-11-{day:02}T12:00", cycle)
    assert moving.use("2026-11-20T12:00", cycle, anchor=date(2026, 1, anchor)).used == 5
    assert moving.period() == (at("2026-11-05"), at(end))


def test_I13_05_month_and_cycle_are_one_counter() -> None:
    moving = Moving(anchor=date(2026, 1, 28))
    for _ in range(5):
        moving.use("2026-11-29T12:00")
    assert moving.use("2026-11-29T13:00", quota("cycle")).used == 6
    assert moving.use("2026-11-29T14:00", quota("month")).used == 7
    assert moving.period() == (at("2026-11-01"), at("2026-12-01"))
    assert moving.use("2026-12-01T00:00", quota("month")).used == 1


def test_I13_moves_to_and_fro_do_not_lengthen_a_period() -> None:
    moving = Moving(anchor=date(2026, 1, 16))
    moving.use("2026-10-20T12:00")
    for _ in range(3):
        moving.use("2026-10-21T12:00", quota("cycle"))
        moving.use("2026-10-22T12:00", quota("month"))
    assert moving.period() == (at("2026-10-01"), at("2026-11-01"))


def test_I13_22_a_period_edited_to_and_fro_keeps_the_usage_of_both() -> None:
    moving = Moving()
    for _ in range(3):
        moving.use("2026-11-29T12:10")
    hourly = moving.use("2026-11-29T12:40", quota("hour"))
    assert (hourly.used, hourly.since_us, hourly.end_us) == (
        1, at("2026-11-29T12:40"), at("2026-11-29T13:00"),
    )  # fmt: skip
    assert moving.use("2026-11-29T12:50").used == 5
    assert moving.use("2026-11-29T12:55", quota("hour")).used == 3
    assert moving.use("2026-11-29T13:05").used == 7
    assert moving.state.suspended == ()


def test_I13_a_longer_period_starts_with_what_was_used_in_it() -> None:
    moving = Moving()
    moving.use("2026-11-29T12:10", quota("hour"))
    moving.use("2026-11-29T12:20", quota("hour"))
    assert moving.use("2026-11-29T14:30", quota("month")).used == 3
    assert moving.state.since_us == at("2026-11-29T12:00")
    assert moving.state.end_us == at("2026-12-01T00:00")


def test_I13_12_another_meter_is_another_counter_and_the_former_one_is_found_again() -> None:
    moving = Moving()
    tokens = QuotaLimit("m", "tokens", 9_000, "month", 9_000)
    moving.state = limits.add(tokens, moving.use("2026-11-29T12:00", tokens), (), 4_999)[0]
    assert moving.use("2026-11-29T13:00").used == 1
    assert moving.use("2026-11-29T14:00", tokens).used == 5_001


def test_I13_a_suspended_counter_is_dropped_at_the_instant_at_which_its_period_ends() -> None:
    end = at("2026-11-29T13:00")
    tokens = counts_of(QuotaLimit("m", "tokens", 9, "hour", 9))
    hour = State(3, at("2026-11-29T12:00"), end_us=end, counts=counts_of(quota("hour")))
    window = Window(end, end + HOUR, end + 2 * HOUR, end - HOUR)
    assert [one.used for one in in_use(hour, tokens, window, end - 1).suspended] == [3]
    assert in_use(hour, tokens, window, end).suspended == ()


def test_I13_a_bucket_of_another_meter_is_another_bucket() -> None:
    now = at("2026-11-29T12:00")
    tokens = RateLimit("r", "tokens", 1, MICRO, 5_000, (1, 1))
    requests = RateLimit("r", "requests", 1, MICRO, 10, (1, 1))
    used = limits.add(tokens, limits.drained(tokens, EMPTY, now), (), 5_000 * MICRO)[0]
    bucket = limits.drained(requests, used, now)
    assert bucket.used == 0
    again = limits.drained(tokens, limits.add(requests, bucket, (), 3 * MICRO)[0], now)
    assert again.used == 5_000 * MICRO


def test_I13_a_pack_of_another_meter_does_not_pay() -> None:
    account, now = Account("acme", "p"), at("2026-11-29T12:00")
    pack = Grant("g1", "q/m", 100, now + DAY, meter=meter_number("tokens"))
    _, state = accounts.grant(NEW, pack, now)
    for meter, paid in (("requests", 0), ("tokens", 2), ("requests", 0)):
        limit = QuotaLimit("m", meter, 5, "month", 5)
        asks = bind_claims(account, "k", [Claim(limit, 7, forced=False)], now)
        answer, state = accounts.reserve(state, asks, now)
        assert (answer.granted, answer.details[0].burned) == (bool(paid), paid)


def test_I13_rollover_comes_only_from_a_period_that_has_ended() -> None:
    rolling = quota("cycle", rollover=5)
    moving = Moving(anchor=date(2026, 1, 5))
    moving.use("2026-11-06T12:00", rolling)
    for day in (4, 18, 20, 3, 31):
        state = moving.use("2026-11-20T12:00", rolling, anchor=date(2026, 1, day))
        assert state.carried == 0
    assert state.end_us == at("2026-11-30")  # 31 November
    assert moving.use("2026-11-30T00:00", rolling).carried == 0
    for _ in range(2):
        moving.use("2026-12-30T00:00", rolling)
    assert moving.use("2026-12-31T00:00", rolling).carried == 2


@pytest.mark.parametrize("period", ["hour", "day", "week", "month", "cycle", "90s"])
def test_a_state_without_an_end_is_read_as_before(period: str) -> None:
    limit, account, now = quota(period), Account("acme", "p"), at("2026-11-29T12:34")
    window = window_at(limit, account, now)
    running, end = current(limit, State(3, window.start, 50), window, now)
    assert (running.used, running.notified, running.since_us, end) == (
        3, 50, window.start, window.end,
    )  # fmt: skip
    fresh, end = current(limit, State(3, window.before, 50), window, now)
    assert (fresh.used, fresh.since_us, end) == (0, window.start, window.end)


# Any moves, against a referee that knows every event

KINDS = tuple(
    QuotaLimit("m", meter, units, period, units * over // 100, rollover=rollover)
    for meter, units, period, over, rollover in (
        ("requests", 20, "month", 100, 0),
        ("requests", 40, "month", 120, 7),
        ("requests", 30, "cycle", 100, 9),
        ("requests", 10, "hour", 100, 0),
        ("requests", 15, "day", 100, 3),
        ("tokens", 25, "month", 100, 0),
    )
)
METERS = {meter_of(counts_of(one)): one.meter for one in KINDS}
STEPS = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([0, HOUR // 4, HOUR // 4, DAY // 3, 9 * DAY])),
    st.tuples(st.just("plan"), st.sampled_from(KINDS)),
    st.tuples(st.just("plan"), st.sampled_from((KINDS[0], KINDS[3]))),
    st.tuples(st.just("plan"), st.sampled_from((KINDS[0], KINDS[3]))),
    st.tuples(
        st.just("zone"),
        st.sampled_from(
            ["UTC", "Pacific/Honolulu", "Asia/Tokyo", "Asia/Kathmandu", "Asia/Kolkata"]
        ),
    ),
    st.tuples(st.just("anchor"), st.sampled_from([1, 2, 8, 15, 16, 17, 28, 31])),
    st.tuples(st.just("use"), st.integers(0, 9), st.booleans()),
    st.tuples(st.just("use"), st.integers(0, 9), st.booleans()),
    st.tuples(st.just("open"), st.integers(0, 9), st.sampled_from(["charge", "release"])),
    st.tuples(st.just("open"), st.integers(0, 9), st.sampled_from(["charge", "release"])),
    st.tuples(st.just("settle"), st.integers(0, 9), st.integers(0, 9)),
    st.tuples(st.just("sweep")),
)


@dataclass
class Event:
    """One request: when it was counted, on what, and its units as they are known by now."""

    at_us: int
    meter: str
    units: int


class Referee:
    """An account that moves, and all its events. The clock moves with each step."""

    def __init__(self) -> None:
        self.now = at("2026-01-29T22:10")
        self.account = Account("acme", "p", anchor=date(2026, 1, 31))
        self.limit = KINDS[0]
        self.state: AccountState = NEW
        self.events: list[Event] = []
        self.opened: dict[str, tuple[QuotaLimit, Event]] = {}
        self.seen: dict[int, State] = {}  # the last known counter, by what it counts
        self.seen_end: tuple[object, int] | None = None

    def step(self, what: str, *rest: object) -> None:
        self.now += 1
        events = len(self.events)
        getattr(self, what)(*rest)
        self.check()
        if len(self.events) > events:  # a refusal stores nothing
            self.check_the_end()

    def wait(self, time: int) -> None:
        self.now += time

    def plan(self, limit: QuotaLimit) -> None:
        self.limit = limit

    def zone(self, name: str) -> None:
        self.account = replace(self.account, timezone=name)

    def anchor(self, day: int) -> None:
        self.account = replace(self.account, anchor=date(2026, 1, day))

    def use(self, units: int, forced: bool) -> None:
        self.reserve(units, None, forced=forced)

    def open(self, units: int, orphans: str) -> None:
        name = f"h{len(self.events)}"
        event = self.reserve(units, Hold(name, DAY, orphans), forced=False)  # type: ignore[arg-type]
        if event is not None:
            self.opened[name] = self.limit, event

    def reserve(self, units: int, hold: Hold | None, *, forced: bool) -> Event | None:
        if hold is not None:
            self.swept()
        claims = [Claim(self.limit, units, forced)]
        asks = bind_claims(self.account, "k", claims, self.now)
        answer, self.state = accounts.reserve(self.state, asks, self.now, hold)
        if not answer.granted:
            return None
        event = Event(self.now, self.limit.meter, units)
        self.events.append(event)
        return event

    def settle(self, which: int, units: int) -> None:
        """Settle under the limit that the request was reserved under, whatever is live."""
        if self.opened:
            name = sorted(self.opened)[which % len(self.opened)]
            limit, event = self.opened.pop(name)
            asks = bind_claims(self.account, "k", [Claim(limit, units, forced=False)], self.now)
            answer, self.state = accounts.settle(self.state, name, asks, self.now)
            if answer.granted:
                event.units = units

    def sweep(self) -> None:
        self.swept()
        self.state = sweep(self.state, self.now)

    def swept(self) -> None:
        """End leases as the next reservation does."""
        ended = sorted((end, name) for name, end in self.state.leases.items() if end <= self.now)
        for _, name in ended[:SWEPT]:
            self.opened.pop(name)[1].units = 0

    def used_since(self, counter: State) -> int:
        meter = METERS[meter_of(counter.counts)]
        return sum(
            one.units for one in self.events if one.meter == meter and one.at_us >= counter.since_us
        )

    def check(self) -> None:
        state = self.state.states.get("q/m")
        if state is None:
            return
        for counter in counters_of(state):
            assert counter.used == self.used_since(counter), counter
            assert counter.end_us - counter.since_us <= LONGEST * 3 // 2
            before = self.seen.get(counter.counts)
            if before is None and self.seen and counter.counts == counts_of(self.limit):
                assert counter.since_us >= self.window().start, "it has only what is in its period"
            if before is not None and before.since_us == counter.since_us:
                assert counter.carried <= before.carried, "nothing is carried into itself"
            elif before is not None:
                assert before.end_us <= counter.since_us, "no period starts before one has ended"
                assert counter.carried <= max(0, max(one.rollover for one in KINDS))
            self.seen[counter.counts] = counter
        assert len(state.suspended) <= MOST_SUSPENDED

    def window(self) -> Window:
        return window_at(self.limit, self.account, self.now)

    def check_the_end(self) -> None:
        """The counter in use ends at a bound of the calendar, or as before if that has passed."""
        counter, window = self.state.states.get("q/m"), self.window()
        calendar = self.account, self.limit, counter and counter.since_us
        if counter is not None and counter.counts == counts_of(self.limit):
            half = (window.end - window.start) // 2
            if counter.since_us + half > window.start:
                assert counter.end_us in (window.end, window.after)
            known = self.seen_end
            if known is not None and known[0] == calendar:
                assert known[1] == counter.end_us, "without a move, the end stays"
            self.seen_end = calendar, counter.end_us


@settings(max_examples=500, deadline=None)
@given(steps=st.lists(STEPS, max_size=60))
def test_I13_a_counter_is_what_was_used_since_its_start_whatever_moves(
    steps: Sequence[tuple],  # type: ignore[type-arg]
) -> None:
    referee = Referee()
    for step in steps:
        referee.step(*step)
