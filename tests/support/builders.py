"""Builders of plans, plan books and requests that work without arguments."""

from dataclasses import dataclass, field, replace
from typing import Any

from sidecar.core.costs import Meter
from sidecar.core.identity import key_digest
from sidecar.core.kinds import MICRO, ConcurrencyLimit, Limit, QuotaLimit, RateLimit
from sidecar.core.model import Account, Claim, Entitlement, Key, Plan, PlanBook, RequestClass, Route

SECRET = b"acme-key"  # of account acme
GUARD = RateLimit("critical", "calls", 100, MICRO, 200, (100, 1))


def a_quota(units: int = 2, **changes: Any) -> QuotaLimit:
    return replace(QuotaLimit("monthly", "requests", units, "month", units), **changes)


def a_rate(units: int = 2, **changes: Any) -> RateLimit:
    """`units` per second, all of them at once."""
    limit = RateLimit("per-second", "requests", units, MICRO, units, (units, 1))
    return replace(limit, **changes)


def a_plan(*limits: Limit, **changes: Any) -> Plan:
    plan = Plan("free", 0, frozenset({"core"}), limits or (a_quota(),), GUARD, "deny")
    return replace(plan, **changes)


def a_route(name: str = "rest", pattern: str = "/**", **changes: Any) -> Route:
    cost = (("requests", 1),)
    route = Route(name, pattern, None, pattern, RequestClass.STANDARD, frozenset(), cost)
    return replace(route, **changes)


ROUTES = (
    a_route("login", "/login", request_class=RequestClass.CRITICAL),
    a_route("export", "/export", request_class=RequestClass.DEFERRABLE),
    a_route("gold", "/gold", needs=frozenset({"gold"})),
    a_route(),
)


def an_entitlement(plan: Plan, route: Route, **changes: Any) -> Entitlement:
    critical = route.request_class is RequestClass.CRITICAL
    claims = tuple(Claim(limit, 1, critical) for limit in plan.limits)
    if critical:
        claims += (Claim(plan.critical_guard, 1, False),)
    slots = any(isinstance(limit, ConcurrencyLimit) for limit in plan.limits)
    entitlement = Entitlement(
        plan, route, claims, tuple(sorted(route.needs - plan.features)), None, b"", ("/login",),
        stays_open=slots or bool(plan.refunds),
    )  # fmt: skip
    return replace(entitlement, **changes)


def a_book(plan: Plan | None = None, account: Account | None = None, **changes: Any) -> PlanBook:
    """A plan book with one plan, and one account with one API key: SECRET."""
    plan = plan or a_plan()
    account = account or Account("acme", plan.id)
    book = PlanBook(
        version="sha256:ab",
        meters={"requests": Meter("requests", "request")},
        routes=ROUTES,
        plans={plan.id: plan},
        entitlements={(plan.id, route.id): an_entitlement(plan, route) for route in ROUTES},
        accounts={account.id: account},
        keys={key_digest(SECRET): Key("k1", account)},
    )
    return replace(book, **changes)


@dataclass
class ARequest:
    """Implements `gate.InboundRequest`."""

    target: bytes = b"/items"
    method: str = "GET"
    api_keys: list[bytes] = field(default_factory=lambda: [SECRET])
    authorizations: list[bytes] = field(default_factory=list)
    address: str = "192.0.2.1"
    waiting: bool = False
    size: int = 0
    patience_us: int | None = None


def a_request(target: bytes = b"/items", **changes: Any) -> ARequest:
    return ARequest(target, **changes)
