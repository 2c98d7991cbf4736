"""The outcome of a forwarded request, and what it costs in the end."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, Literal, NamedTuple, get_args

from sidecar.core.claims import claims_for
from sidecar.core.costs import Unreadable, units_of
from sidecar.core.kinds import MOST_UNITS
from sidecar.core.model import Claim, Entitlement
from sidecar.core.readings import Reading


class OutcomeReason(StrEnum):
    """How a forwarded request ended. A finite set: metrics use it as a label."""

    OK = "ok"
    UPSTREAM_REFUSED = "upstream_refused"  # no connection
    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_ERROR = "upstream_error"  # a successful status, but the body reports an error
    UPSTREAM_BROKEN = "upstream_broken"  # a connection, but no complete valid answer
    OVERLOADED = "overloaded"  # no upstream connection became free in time
    CLIENT_GONE = "client_gone"
    CANCELLED = "cancelled"  # the sidecar stopped first
    UNSETTLED = "unsettled"  # a gateway forwarded it, and has not reported how it ended


class Outcome(NamedTuple):
    """What is known of a request when it is over."""

    status: int  # sent to the client; 499 if nothing was sent; 0 if a gateway has not reported it
    reason: OutcomeReason
    latency_ms: int  # from admission to the last byte
    bytes_in: int  # of the request's body
    bytes_out: int  # of the response's body
    reading: Reading | None = None  # of the response; None without one
    begun: bool = False  # a part of the answer was sent to the client


# The outcomes that a plan may list under `refund`.
Refundable = Literal[
    "upstream_4xx",  # the API answered with a status from 400 to 499
    "upstream_5xx",  # the API answered with a status of 500 or above
    "upstream_error",  # the API reported an error in the body of a successful answer
    "upstream_refused",  # the API could not be reached
    "upstream_timeout",  # the API did not answer in time
    "upstream_broken",  # the API broke off its answer
    "overloaded",  # no connection to the API was free in time
    "client_gone",  # the client left before the first byte of the answer
    "cancelled",  # the sidecar stopped first
]
REFUNDABLE: Final = frozenset(get_args(Refundable))


def refunded(entitlement: Entitlement, outcome: Outcome) -> bool:
    """Whether the plan refunds the cost of a request with this outcome.

    `refunds` may also contain single statuses of the API, as texts. A request whose end is not
    known costs the same as one of a sidecar that died.
    """
    if outcome.reason is OutcomeReason.UNSETTLED:
        return entitlement.plan.orphans == "release"
    refunds = entitlement.plan.refunds
    if not refunds:
        return False
    if not _answered(outcome):
        return outcome.reason in refunds
    status = outcome.status
    if status < 400:
        return False
    return (
        str(status) in refunds or ("upstream_5xx" if status >= 500 else "upstream_4xx") in refunds
    )


def failed(outcome: Outcome) -> bool:
    """Whether the request has no successful answer, for a reason that is not the client."""
    if _answered(outcome):
        return outcome.status >= 400
    return outcome.reason not in _NOT_FAILED


def _answered(outcome: Outcome) -> bool:
    """Whether the status is the API's: its answer ended, or the client left during it."""
    reason = outcome.reason
    return reason is OutcomeReason.OK or (reason is OutcomeReason.CLIENT_GONE and outcome.begun)


_NOT_FAILED: Final = (OutcomeReason.CLIENT_GONE, OutcomeReason.UNSETTLED)


def late_costs(entitlement: Entitlement, outcome: Outcome) -> Reading:
    """Return the costs at which the late meters are settled, and why others keep an estimate.

    A request that failed costs what its response reports, else what is counted of a successful
    response that broke off, and otherwise nothing.
    """
    reading = outcome.reading
    if reading is None:
        meters = [meter for meter, _ in entitlement.settles]
        reading = Reading.failed(meters, Unreadable.UNANSWERED)
    if entitlement.grows:
        reading = _with_sizes(entitlement, reading, outcome.bytes_in)
    if not reading.unreadable:
        return reading
    if reading.counted is not None:
        sizes = _sizes(entitlement, outcome.bytes_in)
        reading = _with_counted(entitlement, reading, reading.counted, sizes, failed(outcome))
    if not failed(outcome):
        return reading
    values = dict.fromkeys(reading.unreadable, 0) | dict(reading.values)
    doubted = {m: why for m, why in reading.unreadable.items() if m in reading.values}
    return Reading(values, doubted, reading.capped)


def _sizes(entitlement: Entitlement, bytes_in: int) -> dict[str, int]:
    """Return what the size of the request adds to its estimates, in units."""
    sizes = dict(entitlement.sized)
    for meter, reserve in entitlement.grows:
        if meter in sizes:
            sizes[meter] = max(sizes[meter], units_of(bytes_in, reserve.bytes_per_unit))
    return sizes


def _with_sizes(entitlement: Entitlement, reading: Reading, bytes_in: int) -> Reading:
    """Return the reading with the meters that no response settles, by the size of the request."""
    settled = {meter for meter, _ in entitlement.settles}
    estimates, sizes = dict(entitlement.route.cost), dict(entitlement.sized)
    values, unread = dict(reading.values), dict(reading.unreadable)
    defaulted = dict(entitlement.defaulted)
    for meter, reserve in entitlement.grows:
        if meter in settled:
            continue
        units = units_of(bytes_in, reserve.bytes_per_unit)
        if meter in sizes:
            units = estimates[meter] + max(0, units - sizes[meter])
        values[meter] = min(max(units, estimates[meter]), MOST_UNITS)
        if meter in defaulted:
            unread[meter] = defaulted[meter]
    return Reading(values, unread, reading.capped, reading.counted)


def _with_counted(
    entitlement: Entitlement,
    reading: Reading,
    counted: Mapping[str, int],
    sizes: Mapping[str, int],
    failed: bool,
) -> Reading:
    """Return the reading with what is counted of a response that lacks costs.

    The greater counts: of that, and of what was read or estimated. The part of an estimate that the
    size of the request added stays: it is not in the response.
    """
    estimates, reserved = dict(entitlement.route.cost), dict(entitlement.sized)
    least = {meter: reserve.least for meter, reserve in entitlement.estimates}
    values = dict(reading.values)
    for meter, fallback in entitlement.fallbacks:
        if meter not in reading.unreadable:
            continue
        units = counted[meter]
        if meter in values or failed:
            values[meter] = max(units, values.get(meter, 0))
            continue
        size = sizes.get(meter, 0)
        if fallback.at_estimate:
            units = max(units, estimates[meter] - reserved.get(meter, 0))
        values[meter] = max(size + units, least.get(meter, 0))
    return Reading(values, reading.unreadable, reading.capped)


def estimated_costs(entitlement: Entitlement, late: Reading) -> Mapping[str, Unreadable]:
    """Return the meters whose actual cost is not known, and why. `late`: of `late_costs`."""
    if not late.unreadable and not entitlement.defaulted:
        return late.unreadable
    defaulted = {m: why for m, why in entitlement.defaulted if m not in late.values}
    return defaulted | dict(late.unreadable)


def actual_claims(entitlement: Entitlement, outcome: Outcome) -> tuple[Claim, ...]:
    """Return the claims at the actual cost: nothing, as the response reports, or as reserved."""
    costs = dict(entitlement.route.cost)
    if refunded(entitlement, outcome):
        return claims_for(entitlement, dict.fromkeys(costs, 0))
    if entitlement.settles or entitlement.grows:
        values = late_costs(entitlement, outcome).values
        if values:
            return claims_for(entitlement, costs | dict(values))
    return entitlement.claims
