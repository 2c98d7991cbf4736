"""I5 through any life of an account: in the reference ledger, counters are the sum of the events.

Everything is pure here. Calls are reserved and settled in the ledger, their events are added up,
and the two are judged after every step; data is lost and rebuilt as well.
"""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core import account as accounts
from sidecar.core import corrections
from sidecar.core.account import NEW, AccountState
from sidecar.core.answers import Hold
from sidecar.core.corrections import Read
from sidecar.core.limits import Grant
from sidecar.core.model import MICRO, Claim, QuotaLimit
from sidecar.core.periods import window_at
from sidecar.core.survey import Ask
from sidecar.reconcile.differences import Kind, Verdict, judge
from sidecar.reconcile.plan_history import PlanFiles, Who
from sidecar.reconcile.usage import CounterKey, Usage
from sidecar.stores import keys
from tests.support.replays import ACME, HOUR, START, a_book, a_call, a_plan, a_route

HOURLY = QuotaLimit("hourly", "requests", 20, "hour", 24)
DAILY = QuotaLimit("daily", "requests", 60, "day", 60, per="key")
LIMITS = (HOURLY, DAILY)
BOOK = replace(a_book([a_plan(LIMITS)], [a_route("rest", {"requests": 1})]), version="sha256:old")
LEASE_US = 10**15


class Life:
    """One account, its calls, and what has been recorded of them."""

    def __init__(self) -> None:
        self.now = START + 600 * MICRO
        self.ledger: AccountState = NEW
        self.events: list[tuple[int, str, int, bool, str]] = []  # time, key, units, billable, id
        self.open: list[tuple[str, int, str, int]] = []  # id, cost, key, when
        self.number = 0

    def asks(self, key: str, cost: int) -> list[Ask]:
        return [
            Ask(keys.limit_field(limit, key), Claim(limit, cost, False),
                window_at(limit, ACME, self.now))
            for limit in LIMITS
        ]  # fmt: skip

    def begin(self, key: str, cost: int) -> None:
        self.number += 1
        name = f"id-{self.number}"
        hold = Hold(name, LEASE_US)
        answer, self.ledger = accounts.reserve(self.ledger, self.asks(key, cost), self.now, hold)
        if answer.granted:
            self.open.append((name, cost, key, self.now))

    def end(self, which: int, real: int, *, billable: bool, told: bool) -> None:
        """`told`: Redis is told of it, too."""
        name, _, key, at = self.open.pop(which % len(self.open))
        self.events.append((at, key, real, billable, name))
        if told:
            asks = self.asks(key, real if billable else 0)
            _, self.ledger = accounts.settle(self.ledger, name, asks, self.now)

    def grant(self, units: int) -> None:
        self.number += 1
        given = Grant(f"g{self.number}", "q/hourly", units, self.now + HOUR)
        _, self.ledger = accounts.grant(self.ledger, given, self.now)

    def verdicts(self) -> list[Verdict]:
        usage = Usage(PlanFiles(BOOK), lambda *_: Who(ACME, True), keys.limit_field, self.now)
        counters = []
        for field, state in self.ledger.states.items():
            kind_and_more = keys.read_field(field)
            assert kind_and_more is not None
            counters.append(CounterKey(field, *kind_and_more[1:], state.since_us))
        usage.account("acme").open(counters, self.ledger.opened)
        for at, key, units, billable, name in self.events:
            call = a_call(0, at, key=key, usage=(("requests", units),), billable=billable)
            usage.add(call._replace(id=name))
        judged = (judge(row, self.ledger, 0) for row in usage.account("acme"))
        return [one for one in judged if one is not None]

    def rebuild(self) -> None:
        for one in self.verdicts():
            row, lost = one.row, -one.of(Kind.LOST)
            if lost and row.start <= self.now < row.end:
                ask = Ask(row.field, Claim(row.limit, lost, True),
                          window_at(row.limit, ACME, self.now))  # fmt: skip
                read = Read(one.counter, row.start)
                answer, self.ledger = corrections.rebuild(
                    self.ledger, [ask], [read], self.ledger.rebuilt, self.now
                )
                assert answer.granted


KEYS = st.sampled_from(["k1", "k2"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.sampled_from([0, 10 * MICRO, 600 * MICRO, HOUR, 5 * HOUR])),
        st.tuples(st.just("begin"), KEYS, st.integers(0, 9)),
        st.tuples(st.just("begin"), KEYS, st.integers(0, 9)),
        st.tuples(st.just("end"), st.integers(0, 9), st.integers(0, 12), st.booleans(),
                  st.sampled_from([True, True, False])),
        st.tuples(st.just("grant"), st.integers(1, 30)),
    ),
    max_size=40,
)  # fmt: skip


def live(life: Life, steps: list[tuple]) -> None:  # type: ignore[type-arg]
    for what, *rest in steps:
        if what == "wait":
            life.now += rest[0]
        elif what == "begin":
            life.begin(*rest)
        elif what == "end" and life.open:
            which, real, billable, told = rest
            life.end(which, real, billable=billable, told=told)
        elif what == "grant":
            life.grant(*rest)


@settings(max_examples=300, deadline=None)
@given(steps=STEPS)
def test_I5_counters_agree_with_events_through_every_life_of_an_account(
    steps: list[tuple],  # type: ignore[type-arg]
) -> None:
    life = Life()
    for step in steps:
        live(life, [step])
        for verdict in life.verdicts():
            assert not verdict.left, verdict


@settings(max_examples=300, deadline=None)
@given(before=STEPS, after=STEPS)
def test_I5_what_is_lost_is_found_and_restored_exactly(
    before: list[tuple],  # type: ignore[type-arg]
    after: list[tuple],  # type: ignore[type-arg]
) -> None:
    life = Life()
    live(life, before)
    life.ledger = NEW
    live(life, after)
    for verdict in life.verdicts():
        assert not verdict.of(Kind.MISSING), verdict
    life.rebuild()
    now = [one for one in life.verdicts() if one.row.start <= life.now < one.row.end]
    for verdict in now:
        assert not verdict.left, verdict
    known = life.ledger
    life.rebuild()
    assert life.ledger == known, "doing it again changes nothing"
