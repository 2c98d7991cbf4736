"""Costs that only the request itself tells: an entitlement for this very call."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sidecar.core.costs import Unreadable
from sidecar.core.model import MOST_UNITS, Claim, Entitlement
from sidecar.core.readings import Reading


def estimated(entitlement: Entitlement, reading: Reading) -> Entitlement:
    """The entitlement with what `reading` found in the request as cost, in route and claims.

    `reading` is of the meters in `entitlement.estimates`. Where it has no value the default
    stands, and `guessed` says why. One call reserves at most MOST_UNITS of a meter: a client
    that asks for more gains nothing, and Redis' arithmetic stays exact.
    """
    costs = dict(entitlement.route.cost)
    guessed = []
    for meter, reserve in entitlement.estimates:
        units = reading.values.get(meter)
        if units is None:
            guessed.append((meter, reading.unreadable.get(meter, Unreadable.MISSING)))
            units = reserve.default
        costs[meter] = min(units, MOST_UNITS)
    return replace(
        entitlement,
        route=replace(entitlement.route, cost=tuple(costs.items())),
        claims=claims_for(entitlement, costs),
        guessed=tuple(guessed),
    )


def at_no_cost(claims: Sequence[Claim]) -> tuple[Claim, ...]:
    """The claims of a reservation that is wholly given back."""
    return tuple(replace(claim, cost=0) for claim in claims)


def claims_for(entitlement: Entitlement, costs: Mapping[str, int]) -> tuple[Claim, ...]:
    """The entitlement's claims at these costs per meter, in the same order.

    A claim of 0 units stays: it is granted while the limit is not overdrawn. The claim of the
    critical guard is always one call.
    """
    guard = entitlement.plan.critical_guard
    return tuple(
        claim
        if claim.limit is guard
        else Claim(claim.limit, costs.get(claim.limit.meter, claim.cost), claim.forced)
        for claim in entitlement.claims
    )
