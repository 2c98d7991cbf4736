"""Outcome → event. Events are CloudEvents 1.0 in structured JSON; quantities are integers.

An event is known by (source, id), never by its time: the same thing told twice is one event.
"""

from enum import StrEnum
from typing import Any, Final, NamedTuple

from sidecar.core.claims import claims_for
from sidecar.core.costs import Unreadable
from sidecar.core.model import Claim, Entitlement, Key
from sidecar.core.reading import Reading
from sidecar.core.reasons import Crossing
from sidecar.core.words import instant


class OutcomeReason(StrEnum):
    """How a forwarded call ended. A finite set: metrics use it as a label."""

    OK = "ok"
    UPSTREAM_REFUSED = "upstream_refused"  # no connection
    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_BROKEN = "upstream_broken"  # a connection, but no valid answer to its end
    OVERLOADED = "overloaded"  # no upstream connection became free in time
    CLIENT_GONE = "client_gone"
    CANCELLED = "cancelled"  # the sidecar stopped first


class Outcome(NamedTuple):
    """What is known of a call when it is over."""

    status: int  # sent to the client; 499 when nothing was
    reason: OutcomeReason
    latency_ms: int  # from admission to the last byte
    bytes_in: int  # of the request's body
    bytes_out: int  # of the response's body
    reading: Reading | None = None  # of the response; None when there was none to read
    begun: bool = False  # something of the answer has gone to the client


# What a plan may list under `refund`, and which outcome it is.
REFUNDABLE: Final = {
    "upstream_5xx": "the API answered with a status of 500 or above",
    "upstream_refused": "the API could not be reached",
    "upstream_timeout": "the API did not answer in time",
    "upstream_broken": "the API broke its answer off",
    "overloaded": "no connection to the API was free in time",
    "client_gone": "the client left before the first byte of the answer",
    "cancelled": "the sidecar was stopped first",
}


def refunded(entitlement: Entitlement, outcome: Outcome) -> bool:
    """Whether the plan gives back what such a call cost."""
    refunds = entitlement.plan.refunds
    if not refunds:
        return False
    reason = outcome.reason
    if reason is OutcomeReason.OK:
        return outcome.status >= 500 and "upstream_5xx" in refunds
    if reason is OutcomeReason.CLIENT_GONE and outcome.begun:
        return False
    return reason in refunds


def real_claims(entitlement: Entitlement, outcome: Outcome) -> tuple[Claim, ...]:
    """The claims at what the call really cost: nothing, what the response told, or as reserved."""
    costs = dict(entitlement.route.cost)
    if refunded(entitlement, outcome):
        return claims_for(entitlement, dict.fromkeys(costs, 0))
    if entitlement.settles and outcome.reading is not None and outcome.reading.values:
        return claims_for(entitlement, costs | dict(outcome.reading.values))
    return entitlement.claims


def usage_event(
    *,
    id: str,  # noqa: A002 - the attribute's name in CloudEvents
    source: str,
    time: str,
    key: Key,
    entitlement: Entitlement,
    plan_version: str,
    overage: tuple[tuple[str, int], ...],
    method: str,
    outcome: Outcome,
) -> dict[str, Any]:
    """The `api.request.v1` event of one forwarded call: what is billed.

    `time` is RFC 3339 in UTC; `team` is there when the key is of one; `usage` and `overage` hold
    every meter of the route. Where the response told the real cost, it is the usage. Where it
    should have and did not, the estimate stands, and `estimated` (meter → reason) is there to say
    so. What the plan gives back is not billable.
    """
    route = entitlement.route
    usage = dict(route.cost)
    beyond = dict.fromkeys(usage, 0)
    if overage:
        beyond.update(overage)
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": id,
        "source": source,
        "type": "api.request.v1",
        "subject": key.account.id,
        "time": time,
        "datacontenttype": "application/json",
        "data": {
            "key": key.id,
            "plan": entitlement.plan.id,
            "plan_version": plan_version,
            "route": route.id,
            "class": route.call_class,
            "method": method,
            "status": outcome.status,
            "usage": usage,
            "overage": beyond,
            "billable": not refunded(entitlement, outcome),
            "reason": outcome.reason,
            "latency_ms": outcome.latency_ms,
            "bytes_in": outcome.bytes_in,
            "bytes_out": outcome.bytes_out,
        },
    }
    if key.counted_team:
        event["data"]["team"] = key.counted_team
    if entitlement.settles or entitlement.guessed:
        _correct(event["data"], entitlement, outcome.reading)
    return event


def _correct(data: dict[str, Any], entitlement: Entitlement, reading: Reading | None) -> None:
    """Put what the response told in the place of the estimates, and name those that stand."""
    if reading is None:
        meters = (meter for meter, _ in entitlement.settles)
        reading = Reading.nothing(meters, Unreadable.UNANSWERED)
    usage, beyond = data["usage"], data["overage"]
    for meter, units in reading.values.items():
        if beyond[meter]:  # the quota ended within the estimate: all that differs lies beyond it
            beyond[meter] = max(0, beyond[meter] + units - usage[meter])
        usage[meter] = units
    standing = dict(entitlement.guessed) | dict(reading.unreadable)
    standing = {meter: why for meter, why in standing.items() if meter not in reading.values}
    if standing:
        data["estimated"] = standing


def refusal_event(
    *,
    id: str,  # noqa: A002
    source: str,
    time: str,
    key: Key,
    entitlement: Entitlement | None,
    plan_version: str,
    status: int,
    reason: str,
) -> dict[str, Any]:
    """The `api.refusal.v1` event of a call that was not forwarded. Never billable.

    `route` and `class` are null when the call was refused before its route was known.
    """
    route = entitlement.route if entitlement else None
    data = {
        "key": key.id,
        "plan": entitlement.plan.id if entitlement else key.account.plan,
        "plan_version": plan_version,
        "route": route.id if route else None,
        "class": route.call_class if route else None,
        "status": status,
        "billable": False,
        "reason": str(reason),
    }
    if key.counted_team:
        data["team"] = key.counted_team
    return _cloud_event(id, source, "api.refusal.v1", key.account.id, time, data)


def notice_event(
    *,
    source: str,
    time: str,
    key: Key,
    entitlement: Entitlement,
    plan_version: str,
    crossing: Crossing,
) -> dict[str, Any]:
    """The `account.notice.v1` event of a threshold crossed.

    Its id follows from account, limit, key (for a limit per key), period and percentage: a
    threshold is told once per period, however often this event is sent.
    """
    limit, account = crossing.limit, key.account.id
    whose = f"{limit.id}/{key.id}" if limit.per == "key" else limit.id
    data: dict[str, Any] = {
        "plan": entitlement.plan.id,
        "plan_version": plan_version,
        "limit": limit.id,
        "meter": limit.meter,
        "percent": crossing.percent,
        "used": crossing.used,
        "limit_units": limit.units,
        "period_end": instant(crossing.period_end_us),
    }
    if limit.per == "key":
        data["key"] = key.id
    identity = f"notice/{account}/{whose}/{crossing.period_end_us}/{crossing.percent}"
    return _cloud_event(identity, source, "account.notice.v1", account, time, data)


def _cloud_event(
    identity: str, source: str, kind: str, account: str, time: str, data: dict[str, Any]
) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": identity,
        "source": source,
        "type": kind,
        "subject": account,
        "time": time,
        "datacontenttype": "application/json",
        "data": data,
    }
