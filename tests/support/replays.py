"""Plans and recorded requests for backtests, and the reference that decides the same requests."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from heapq import heappop, heappush
from typing import Any

import orjson

from sidecar.backtest.replay import NOTHING_SENT
from sidecar.core.answers import Hold
from sidecar.core.claims import at_no_cost, claims_for
from sidecar.core.counting import account as accounts
from sidecar.core.counting.reservations import NEW
from sidecar.core.counting.survey import BoundClaim
from sidecar.core.counting.teams import TeamEntitlements
from sidecar.core.decision import decide
from sidecar.core.events.build import usage_event
from sidecar.core.events.read import EventParser, RecordedRequest
from sidecar.core.kinds import MICRO, ConcurrencyLimit, Limit, PeriodLimit, RateLimit, TeamShare
from sidecar.core.model import Account, Claim, Entitlement, Key, Plan, PlanBook, RequestClass, Route
from sidecar.core.periods import window_at
from sidecar.core.reasons import Decision
from sidecar.core.settlement import Outcome, OutcomeReason, refunded

HOUR = 3_600 * MICRO
START = 1_790_000_000 * MICRO // HOUR * HOUR
GUARD = RateLimit("critical", "calls", 1, MICRO, 3, (1, 1))
ACME = Account("acme", "pro")
FOREVER_US = 10**15
METERS = ("requests", "tokens")


def a_route(
    name: str, cost: dict[str, int], request_class: RequestClass = RequestClass.STANDARD
) -> Route:
    return Route(name, f"/{name}", None, f"/{name}", request_class, frozenset(),
                 tuple(sorted(cost.items())))  # fmt: skip


def a_plan(limits: Sequence[Limit], name: str = "pro", **changes: Any) -> Plan:
    return replace(Plan(name, 0, frozenset(), tuple(limits), GUARD, "deny"), **changes)


def an_entitlement(plan: Plan, route: Route) -> Entitlement:
    costs, critical = dict(route.cost), route.request_class is RequestClass.CRITICAL
    claims = tuple(
        Claim(limit, costs.get(limit.meter, 1), critical)
        for limit in plan.limits
        if isinstance(limit, ConcurrencyLimit) or limit.meter in costs
    )
    if critical:
        claims += (Claim(plan.critical_guard, 1, False),)
    return Entitlement(plan, route, claims, (), None, b"", ())


def a_book(plans: Sequence[Plan], routes: Sequence[Route], **changes: Any) -> PlanBook:
    entitlements = {
        (plan.id, route.id): an_entitlement(plan, route) for plan in plans for route in routes
    }
    book = PlanBook(
        "sha256:new", {}, tuple(routes), {plan.id: plan for plan in plans}, entitlements
    )
    return replace(book, **changes)


def a_request(number: int = 1, at_us: int = START, **changes: Any) -> RecordedRequest:
    """A recorded request with defaults: its event, built and parsed, with the changes."""
    defaults = {"account": "acme", "key": "k1", "plan": "pro", "route": "rest", "status": 200,
             "reason": OutcomeReason.OK, "latency_ms": 0, "usage": (("requests", 1),)}  # fmt: skip
    values = defaults | changes
    entitlement = an_entitlement(a_plan((), values["plan"]), a_route(values["route"], {}))
    outcome = Outcome(values["status"], values["reason"], values["latency_ms"], 0, 0)
    event = usage_event(
        id=f"id-{number:06d}", source="/sidecar/test", time="2026-11-23T08:30:00.123Z",
        key=Key(values["key"], Account(values["account"], values["plan"])), entitlement=entitlement,
        plan_version="sha256:old", method="GET", outcome=outcome,
    )  # fmt: skip
    event["data"]["usage"] = dict(values["usage"])
    read = EventParser().parse(orjson.loads(orjson.dumps(event)))._replace(time_us=at_us)
    return read._replace(
        **{name: values[name] for name in ("overage", "billable", "team") if name in values}
    )


class Reference:
    """One account in `core/counting/account.py`, with decisions by `core/decision.py`."""

    def __init__(self, book: PlanBook, account: Account = ACME) -> None:
        self.state = NEW
        self._account = account
        self._of_team = TeamEntitlements()
        self.units: Counter[str] = Counter()
        self.overage: Counter[str] = Counter()
        self.shadowed: Counter[str] = Counter()
        self._book = book
        self._open: list[tuple[int, int, str, str, tuple[Claim, ...]]] = []

    def asks(self, key: str, claims: Sequence[Claim], at_us: int) -> list[BoundClaim]:
        return [
            BoundClaim(
                field_of(claim.limit, key),
                claim,
                window_at(claim.limit, ACME, at_us)
                if isinstance(claim.limit, PeriodLimit)
                else None,
                tuple(f"{claim.limit.id}/{other.team}" for other in claim.limit.others)
                if isinstance(claim.limit, TeamShare)
                else (),
            )
            for claim in claims
        ]

    def pass_time(self, at_us: int) -> None:
        while self._open and self._open[0][0] <= at_us:
            end, _, hold_id, key, claims = heappop(self._open)
            asks = self.asks(key, claims, end)
            _, self.state = accounts.settle(self.state, hold_id, asks, end, billed=False)

    def decide(self, event: RecordedRequest) -> Decision:
        self.pass_time(event.time_us)
        entitlement = self._book.entitlements[event.plan, event.route]
        if self._account.teams:
            key = Key(event.key, self._account, event.team)
            entitlement = self._of_team.of(entitlement, key)
        claims = claims_for(entitlement, dict(entitlement.route.cost))
        outcome = Outcome(event.status, OutcomeReason(event.reason), 0, 0, 0, None,
                          event.status != NOTHING_SENT)  # fmt: skip
        refund = refunded(entitlement, outcome)
        slots = any(isinstance(claim.limit, ConcurrencyLimit) for claim in claims)
        hold = Hold(event.id, FOREVER_US, late=refund) if refund or slots else None
        asks = self.asks(event.key, claims, event.time_us)
        answer, self.state = accounts.reserve(self.state, asks, event.time_us, hold)
        decision = decide(replace(entitlement, claims=claims), answer)
        if decision.allowed:
            self.shadowed.update(decision.shadowed)
            if not refund:
                self.units.update(dict(entitlement.route.cost))
                self.overage.update(dict(decision.overage.meters))
        if decision.allowed and hold is not None:
            end = event.time_us + event.latency_ms * 1000
            actual = at_no_cost(claims) if refund else claims
            heappush(self._open, (end, len(self._open), event.id, event.key, actual))
        return decision


def field_of(limit: Limit, key: str) -> str:
    if isinstance(limit, TeamShare):
        return f"{limit.id}/{limit.team}"
    kind = type(limit).__name__
    return f"{kind}/{limit.id}/{key}" if limit.per == "key" else f"{kind}/{limit.id}"
