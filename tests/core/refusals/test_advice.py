"""Each step of `how_to_fix` is followed, and the request must pass."""

import copy
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.config.loading import parse
from sidecar.core.answers import Answer, Hold
from sidecar.core.claims import with_estimates
from sidecar.core.counting.limits import Grant
from sidecar.core.counting.teams import TeamEntitlements, read_teams
from sidecar.core.decision import decide
from sidecar.core.kinds import MICRO
from sidecar.core.model import Account, Entitlement, Key, PlanBook
from sidecar.core.periods import pack_end_us
from sidecar.core.readings import Reading
from sidecar.core.reasons import Decision
from sidecar.core.refusals.build import limit_refusal
from sidecar.core.refusals.problems import Step
from sidecar.core.refusals.rendering import render_text
from sidecar.stores import keys
from sidecar.stores.memory import MemoryLimitStore

START = 1_796_083_200_000_000 - 20 * 86_400 * MICRO + 12_345_678
HEAD = """\
version: 1
meters:
  requests: {unit: request}
  tokens: {unit: token, reserve: {json: n, default: 1, bytes_per_unit: 4}}
routes:
  - {id: big, match: "POST /big", cost: {requests: 30}}
  - {id: both, match: "POST /both", cost: {requests: 3, tokens: reserve}}
  - {id: chat, match: "POST /chat", cost: {tokens: reserve}}
  - {id: rest, match: "/**"}
"""
ACME = Account("acme", "p")


def done(coroutine: Coroutine[None, None, Answer]) -> Answer:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        answer: Answer = ended.value
        return answer
    raise AssertionError("it waits")


@dataclass
class Customer:
    """An account whose clock, plan, packs and usage the test moves."""

    book: PlanBook
    account: Account = ACME
    team: str = ""
    now: int = START
    tokens: int = 1
    bought: int = 0
    size: int = 0  # units by the size of the request

    def __post_init__(self) -> None:
        self.store = MemoryLimitStore(lambda: self.now)

    def copied(self) -> "Customer":
        other = Customer(self.book, self.account, self.team, self.now, self.tokens, self.bought)
        other.size = self.size
        other.store._accounts = copy.copy(self.store._accounts)
        return other

    def ask(self, route: str, *, slot: bool = False) -> tuple[Entitlement, Decision]:
        found = self.book.entitlements[self.account.plan, route]
        if found.estimates:
            counted = {"tokens": self.size}
            found = with_estimates(found, Reading({"tokens": self.tokens}, {}, None, counted))
        key = Key("k1", self.account, self.team)
        if self.account.teams:
            found = TeamEntitlements().of(found, key)
        self.bought += 1
        hold = Hold(f"h{self.bought}", 10**13, "charge") if slot else None
        reserving = self.store.reserve(self.account, "k1", found.claims, hold=hold)
        return found, decide(found, done(reserving))

    def steps(self, route: str) -> list[Step] | None:
        """The advice if the request is refused."""
        found, decision = self.copied().ask(route)
        if decision.allowed:
            return None
        refusal = limit_refusal(self.book, found, self.account, decision, "019", 0)
        assert render_text(refusal)
        return refusal.problem["how_to_fix"]  # type: ignore[return-value]

    def follow(self, step: Step) -> None:
        action = step["action"]
        if action == "do_all":
            for part in step["steps"]:
                self.follow(part)
        elif action == "wait":
            self.now = max(self.now, int(datetime.fromisoformat(step["until"]).timestamp()) * MICRO)
        elif action == "upgrade":
            self.account = replace(self.account, plan=step["plan"])
        elif action == "ask_for_less":
            self.tokens = int(step["to"].split()[2].replace(",", ""))
        else:
            assert action == "buy_pack"
            for _ in range(step.get("times", 1)):
                self._buy(step["pack"])

    def _buy(self, name: str) -> None:
        pack = self.book.packs[name]
        self.bought += 1
        end = pack_end_us(pack, self.account, self.now)
        grant = Grant(f"g{self.bought}", keys.quota_field(pack.limit), pack.units, end)
        assert self.store.grant(self.account, grant)


def actions(steps: list[Step] | None) -> list[str]:
    return ["+".join(each["action"] for each in step.get("steps", [step])) for step in steps or ()]


def check_advice(customer: Customer, route: str) -> list[str]:
    """Follow each step of a refusal's advice; return their actions."""
    steps = customer.steps(route)
    followed = [step for step in steps or () if step["action"] not in ("ask", "slow_down")]
    for step in followed:
        later = customer.copied()
        later.follow(step)
        assert later.steps(route) is None, step
    return actions(steps)


def book(
    limits: str, more: str = "", tail: str = "", reserve: str = "json: n, default: 1"
) -> PlanBook:
    plans = f"plans:\n  p: {{limits: [{limits}]}}\n{more}"
    head = HEAD.replace("json: n, default: 1", reserve)
    return parse((head + plans + tail).encode(), "plans.yaml")


PACKS = """\
packs:
  five: {meter: requests, limit: q, units: 5, lasts: day}
  fifty: {meter: requests, limit: q, units: 50, lasts: day}
"""
Q = "{id: q, meter: requests, quota: 5/day}"


def test_11_a_pack_that_is_too_small_is_not_offered() -> None:
    steps = Customer(book(Q, tail=PACKS)).steps("big")
    assert steps == [{"action": "buy_pack", "pack": "fifty", "units": 50}]


def test_11_no_pack_is_offered_if_another_limit_never_allows_the_request() -> None:
    per_key = "{id: k, meter: requests, quota: 20/day, per: key}"
    steps = Customer(book(f"{Q}, {per_key}", tail=PACKS)).steps("big")
    assert actions(steps) == ["ask"]


@pytest.mark.parametrize(("units", "times"), [(5, 5), (7, 4), (24, 2)])
def test_several_small_packs_are_offered_together(units: int, times: int) -> None:
    pack = f"{{meter: requests, limit: q, units: {units}, lasts: day}}"
    customer = Customer(book(Q, tail=f"packs: {{small: {pack}}}\n"))
    assert customer.steps("big") == [
        {"action": "do_all", "steps": [
            {"action": "buy_pack", "pack": "small", "units": units, "times": times}
        ]}
    ]  # fmt: skip
    assert check_advice(customer, "big") == ["buy_pack"]


def test_a_pack_of_exactly_what_is_missing_is_enough() -> None:
    pack = "{meter: requests, limit: q, units: 25, lasts: day}"
    customer = Customer(book(Q, tail=f"packs: {{small: {pack}}}\n"))
    assert customer.steps("big") == [{"action": "buy_pack", "pack": "small", "units": 25}]
    assert check_advice(customer, "big") == ["buy_pack"]


@pytest.mark.parametrize(("units", "times"), [(3, 10), (2, None)])
def test_the_same_pack_is_offered_at_most_ten_times(units: int, times: int | None) -> None:
    pack = f"{{meter: requests, limit: q, units: {units}, lasts: day}}"
    customer = Customer(book(Q, tail=f"packs: {{small: {pack}}}\n"))
    for _ in range(3):
        assert customer.ask("rest")[1].allowed
    offered = [
        part["times"] for step in customer.steps("big") or () for part in step.get("steps", ())
    ]
    assert offered == ([] if times is None else [times])


def test_a_pack_is_bought_for_a_wait_until_all_other_limits_recover() -> None:
    others = "{id: h, meter: requests, quota: 30/hour}, {id: d, meter: requests, quota: 30/day}"
    tail = "packs: {large: {meter: requests, limit: m, units: 90, lasts: month}}\n"
    customer = Customer(book(f"{others}, {{id: m, meter: requests, quota: 30/month}}", tail=tail))
    assert customer.ask("rest")[1].allowed
    assert check_advice(customer, "big") == ["wait", "buy_pack+wait"]


def test_a_pack_and_a_wait_are_one_step() -> None:
    rate = "{id: r, meter: requests, rate: 1/min, burst: 40}"
    customer = Customer(book(f"{Q}, {rate}", tail=PACKS))
    customer.follow({"action": "buy_pack", "pack": "fifty"})
    assert customer.ask("big")[1].allowed
    for _ in range(9):
        assert customer.ask("rest")[1].allowed
    assert check_advice(customer, "big") == ["slow_down", "buy_pack+wait"]


def test_packs_for_two_quotas_are_one_step() -> None:
    two = "packs: {a: {meter: requests, limit: q, units: 50, lasts: day}, "
    two += "b: {meter: requests, limit: m, units: 30, lasts: month}}\n"
    month = "{id: m, meter: requests, quota: 5/month}"
    customer = Customer(book(f"{Q}, {month}", tail=two))
    assert check_advice(customer, "big") == ["buy_pack+buy_pack"]


def test_a_pack_that_has_ended_is_not_offered() -> None:
    tail = "packs: {old: {meter: requests, limit: q, units: 50, lasts: 2020-01-01}}\n"
    assert actions(Customer(book(Q, tail=tail)).steps("big")) == ["ask"]


def test_a_pack_that_ends_when_another_limit_recovers_is_not_offered() -> None:
    limits = "{id: h, meter: requests, quota: 30/hour}, {id: q, meter: requests, quota: 30/month}"
    tail = "packs: {brief: {meter: requests, limit: q, units: 50, lasts: hour}}\n"
    customer = Customer(book(limits, tail=tail))
    assert customer.ask("rest")[1].allowed
    assert check_advice(customer, "big") == ["wait"]


@pytest.mark.parametrize(
    ("plan", "offered"),
    [("quota: 40/day", True), ("quota: 34/day", False), ("quota: 40/month", False)],
)
def test_an_upgrade_is_offered_only_if_present_usage_leaves_room(plan: str, offered: bool) -> None:
    more = f"  pro: {{limits: [{{id: q, meter: requests, {plan}}}]}}\n"
    customer = Customer(book(Q, more))
    for _ in range(5):
        customer.ask("rest")
    assert ("upgrade" in check_advice(customer, "big")) == offered


@pytest.mark.parametrize(("units", "offered"), [(100, True), (95, False)])
def test_an_upgrade_is_offered_if_other_teams_leave_exactly_enough(
    units: int, offered: bool
) -> None:
    more = f"  pro: {{limits: [{{id: q, meter: requests, quota: {units}/day}}]}}\n"
    teams = read_teams("a=40%:keep,b=30%:keep")
    small = "{id: q, meter: requests, quota: 60/day}"
    customer = Customer(book(small, more), Account("acme", "p", teams=teams))
    assert ("upgrade" in check_advice(customer, "big")) == offered


def test_an_upgrade_is_not_offered_if_its_other_limits_refuse() -> None:
    limits = "{id: q, meter: requests, quota: 90/day}, {id: r, meter: requests, rate: 20/s}"
    assert actions(Customer(book(Q, f"  pro: {{limits: [{limits}]}}\n")).steps("big")) == ["ask"]


@pytest.mark.parametrize(
    ("rate", "offered"),
    [("60/min, burst: 1", True), ("1/min, burst: 1", False), ("1/min, burst: 11", True)],
)
def test_an_upgrade_to_a_slower_rate_is_offered_only_if_it_has_drained(
    rate: str, offered: bool
) -> None:
    limits = "{id: r, meter: requests, rate: 10/min, burst: 10}"
    pro = f"  pro: {{limits: [{{id: r, meter: requests, rate: {rate}}}]}}\n"
    customer = Customer(book(f"{limits}, {{id: q, meter: requests, quota: 1/day}}", pro))
    assert customer.ask("rest")[1].allowed
    customer.now += 7 * MICRO
    assert ("upgrade" in check_advice(customer, "rest")) == offered


def test_a_request_asks_for_what_is_left_or_waits_and_asks_for_less() -> None:
    customer = Customer(book("{id: t, meter: tokens, quota: 100/day}"), tokens=150)
    assert check_advice(customer, "chat") == ["ask_for_less"]
    customer.tokens = 100
    assert customer.ask("chat")[1].allowed
    customer.tokens = 150
    assert check_advice(customer, "chat") == ["ask_for_less+wait"]


def test_what_the_size_of_a_request_adds_is_left_out_of_what_it_may_ask_for() -> None:
    customer = Customer(book("{id: t, meter: tokens, quota: 100/day}"), tokens=99, size=20)
    assert check_advice(customer, "chat") == ["ask_for_less"]
    [step] = [one for one in customer.steps("chat") or () if one["action"] == "ask_for_less"]
    assert step["to"] == "at most 80 tokens in one request, beside the 20 of its size"
    customer.size = 101
    assert "ask_for_less" not in check_advice(customer, "chat")


def test_less_than_the_minimum_of_the_plan_is_not_asked_for() -> None:
    limits = "{id: t, meter: tokens, quota: 100/day}"
    the_book = book(limits, reserve="json: n, default: 200, min: 200")
    assert "ask_for_less" not in check_advice(Customer(the_book, tokens=150), "chat")
    the_book = book(limits, reserve="json: n, default: 60, min: 60")
    customer = Customer(the_book, tokens=150)
    assert check_advice(customer, "chat") == ["ask_for_less"]
    customer.tokens = 50  # costs 60
    assert customer.ask("chat")[1].allowed
    customer.tokens = 150
    assert check_advice(customer, "chat") == ["ask_for_less+wait"]


LIMITS = st.sampled_from(
    [
        "{{id: q, meter: requests, quota: {n}/day}}",
        "{{id: h, meter: requests, quota: {n}/hour, rollover: up to 50%}}",
        "{{id: m, meter: requests, quota: {n}/month, at: {{100%: overage, 150%: reject}}}}",
        "{{id: k, meter: requests, quota: {n}/day, per: key}}",
        "{{id: r, meter: requests, rate: {n}/min, burst: {n}}}",
        "{{id: s, meter: requests, rate: {n}/s, burst: {n}, per: key}}",
        "{{id: t, meter: tokens, quota: {n}/day}}",
        "{{id: u, meter: tokens, rate: {n}/h}}",
        "{{id: x, meter: requests, quota: {n}/day, enforce: shadow}}",
    ]
)


@st.composite
def plan_limits(draw: st.DrawFn) -> str:
    kinds = draw(st.lists(LIMITS, min_size=1, max_size=4, unique=True))
    numbers = st.sampled_from([1, 2, 5, 10, 29, 30, 31, 60, 100])
    return ", ".join(kind.format(n=draw(numbers)) for kind in kinds)


@st.composite
def packs(draw: st.DrawFn, limits: str) -> str:
    quotas = [
        (name, meter)
        for name, meter in (
            ("q", "requests"),
            ("h", "requests"),
            ("m", "requests"),
            ("t", "tokens"),
        )
        if f"id: {name}," in limits
    ]
    lines = []
    for number in range(draw(st.integers(0, 4)) if quotas else 0):
        name, meter = draw(st.sampled_from(quotas))
        units = draw(st.sampled_from([1, 5, 30, 100]))
        lasts = draw(st.sampled_from(["hour", "day", "month", "90m", "2020-01-01"]))
        one = f"meter: {meter}, limit: {name}, units: {units}, lasts: {lasts}"
        lines.append(f"  pack{number}: {{{one}}}\n")
    return "packs:\n" + "".join(lines) if lines else ""


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_I10_what_a_refusal_advises_lets_the_request_pass(data: st.DataObject) -> None:
    limits = data.draw(plan_limits())
    plans = [f"  plan{at}: {{limits: [{data.draw(plan_limits())}]}}\n" for at in range(2)]
    every = limits + "".join(plans)
    the_book = book(limits, "".join(plans), data.draw(packs(every)))
    teams = "a=40%,b=30%:keep" if data.draw(st.booleans()) else ""
    account = Account("acme", "p", teams=read_teams(teams))
    customer = Customer(the_book, account)
    routes = st.sampled_from(["big", "both", "chat", "rest"])
    for _ in range(data.draw(st.integers(0, 8))):
        customer.now += data.draw(st.sampled_from([0, 1, 7 * MICRO, 1_700 * MICRO]))
        customer.tokens = data.draw(st.sampled_from([0, 1, 10, 50, 150]))
        customer.size = data.draw(st.sampled_from([0, 0, 1, 20, 70]))
        customer.team = data.draw(st.sampled_from(["a", "b", ""]))
        route = data.draw(routes)
        check_advice(customer, route)
        customer.ask(route)
