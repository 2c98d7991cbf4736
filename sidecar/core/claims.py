"""Costs that only the request contains: an entitlement for one request."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sidecar.core.costs import Unreadable
from sidecar.core.kinds import MOST_UNITS, QuotaLimit
from sidecar.core.model import Claim, Entitlement
from sidecar.core.readings import Reading


def with_estimates(entitlement: Entitlement, reading: Reading) -> Entitlement:
    """Return the entitlement with the costs that `reading` has for `entitlement.estimates`.

    A meter without a value has its default cost, and `defaulted` has the reason. `sized` has what
    the size of the request adds. A body that may grow keeps the reservation open, so that it
    settles at its whole size. One request reserves at most MOST_UNITS of a meter: a client that
    asks for more gains nothing, and the arithmetic in Redis stays exact.
    """
    costs = dict(entitlement.route.cost)
    counted = reading.counted or {}
    defaulted = []
    sized = []
    for meter, reserve in entitlement.estimates:
        units, size = reading.values.get(meter), counted.get(meter, 0)
        if units is None:
            defaulted.append((meter, reading.unreadable.get(meter, Unreadable.MISSING)))
            units = reserve.default
        if reserve.path is None or reserve.greater:
            units = max(units, size)
        elif size:
            sized.append((meter, size))
            units += size
        costs[meter] = min(max(units, reserve.least), MOST_UNITS)
    estimated = replace(
        entitlement,
        route=replace(entitlement.route, cost=tuple(costs.items())),
        claims=claims_for(entitlement, costs),
        defaulted=tuple(defaulted),
        sized=tuple(sized),
    )
    return _growing(estimated) if reading.grows else estimated


def _growing(entitlement: Entitlement) -> Entitlement:
    """The entitlement of a request whose size is known only when its body has passed."""
    grows = tuple((m, reserve) for m, reserve in entitlement.estimates if reserve.bytes_per_unit)
    meters = {meter for meter, _ in grows}
    counted = any(
        isinstance(claim.limit, QuotaLimit) and claim.limit.meter in meters
        for claim in entitlement.claims
    )
    return replace(
        entitlement,
        grows=grows,
        stays_open=bool(entitlement.claims),
        late_overage=entitlement.late_overage or counted,
    )


def at_no_cost(claims: Sequence[Claim]) -> tuple[Claim, ...]:
    """Return the claims for settling a reservation that costs nothing."""
    return tuple(replace(claim, cost=0) for claim in claims)


def claims_for(entitlement: Entitlement, costs: Mapping[str, int]) -> tuple[Claim, ...]:
    """Return the entitlement's claims at these costs per meter, in the same order.

    A claim of 0 units stays: it is granted if the limit is not overdrawn. The claim of the critical
    guard is always one request.
    """
    guard = entitlement.plan.critical_guard
    return tuple(
        claim
        if claim.limit is guard
        else Claim(claim.limit, costs.get(claim.limit.meter, claim.cost), claim.forced)
        for claim in entitlement.claims
    )
