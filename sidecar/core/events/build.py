"""Usage, refusal and notice events: CloudEvents 1.0 in structured JSON, quantities as integers.

(source, id) identifies an event, never its time: two events with the same pair are copies.
"""

from collections.abc import Mapping
from typing import Any, Final

from sidecar.core.model import Entitlement, Key
from sidecar.core.readings import Reading
from sidecar.core.reasons import NO_OVERAGE, Overage, ThresholdCrossing
from sidecar.core.settlement import Outcome, estimated_costs, late_costs, refunded
from sidecar.core.text import instant

# The clock of an event's `time`.
REDIS: Final = "redis"
NODE: Final = "node"


def usage_event(
    *,
    id: str,  # noqa: A002 - the attribute's name in CloudEvents
    source: str,
    time: str,
    key: Key,
    entitlement: Entitlement,
    plan_version: str,
    method: str,
    outcome: Outcome,
    overage: Overage = NO_OVERAGE,
    clock: str = NODE,
    periods: Mapping[str, str] | None = None,
    overage_pending: bool = False,
) -> dict[str, Any]:
    """Build the `api.request.v1` event of one forwarded request: the record that is billed.

    `time` is RFC 3339 in UTC, by `clock`. `periods`: see `periods_of`; None and {}: no quota
    counted the request. `team` is present if the key belongs to a team. `usage` and `overage` hold
    every meter of the route. The actual cost in the response is the usage. If the response lacks
    it, the estimate is the usage, and `estimated` (meter → reason) says so; if no successful
    response came, late costs are 0. `capped` (meter → reported units) says that the usage is the
    most that one request settles. A request that the plan refunds is not billable.
    `overage_pending` (true): Redis had not answered yet, and an overage event may follow.
    """
    route = entitlement.route
    usage = dict(route.cost)
    beyond = dict.fromkeys(usage, 0)
    beyond.update(overage.meters)
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": id,
        "source": source,
        "type": "api.request.v1",
        "subject": key.account.id,
        "time": time,
        "clock": clock,
        "datacontenttype": "application/json",
        "data": {
            "key": key.id,
            "plan": entitlement.plan.id,
            "plan_version": plan_version,
            "route": route.id,
            "class": route.request_class,
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
    if periods:
        event["data"]["periods"] = dict(periods)
    if key.counted_team:
        event["data"]["team"] = key.counted_team
    if overage.limits:
        event["data"]["overage_by_limit"] = dict(overage.limits)
    if overage_pending:
        event["data"]["overage_pending"] = True
    if entitlement.settles or entitlement.defaulted or entitlement.grows:
        _correct(event["data"], entitlement, late_costs(entitlement, outcome))
    return event


def _correct(data: dict[str, Any], entitlement: Entitlement, reading: Reading) -> None:
    """Replace estimates with the actual cost, and name those that remain."""
    data["usage"].update(reading.values)
    estimated = estimated_costs(entitlement, reading)
    if estimated:
        data["estimated"] = dict(estimated)
    if reading.capped:
        data["capped"] = dict(reading.capped)


def overage_event(
    *,
    source: str,
    time: str,
    key: Key,
    entitlement: Entitlement,
    plan_version: str,
    overage: Overage,
    request_id: str,
    clock: str,
    periods: Mapping[str, str],
) -> dict[str, Any]:
    """Build the `account.overage.v1` event: the overage that a request's own event lacks.

    `time`, `clock` and `periods` are those of the request's event. The id derives from the
    request's, so repeated events are copies.
    """
    data: dict[str, Any] = {
        "key": key.id,
        "plan": entitlement.plan.id,
        "plan_version": plan_version,
        "route": entitlement.route.id,
        "request": request_id,
        "overage": dict(overage.meters),
        "overage_by_limit": dict(overage.limits),
        "billable": True,
        "periods": dict(periods),
    }
    if key.counted_team:
        data["team"] = key.counted_team
    identity = f"overage/{request_id}"
    return cloud_event(identity, source, "account.overage.v1", key.account.id, time, data, clock)


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
    clock: str = NODE,
) -> dict[str, Any]:
    """Build the `api.refusal.v1` event of a request that was not forwarded. Never billable.

    `route` and `class` are null if the gate refused the request before it knew the route.
    """
    route = entitlement.route if entitlement else None
    data = {
        "key": key.id,
        "plan": entitlement.plan.id if entitlement else key.account.plan,
        "plan_version": plan_version,
        "route": route.id if route else None,
        "class": route.request_class if route else None,
        "status": status,
        "billable": False,
        "reason": str(reason),
    }
    if key.counted_team:
        data["team"] = key.counted_team
    return cloud_event(id, source, "api.refusal.v1", key.account.id, time, data, clock)


def notice_event(
    *,
    source: str,
    time: str,
    key: Key,
    entitlement: Entitlement,
    plan_version: str,
    crossing: ThresholdCrossing,
    clock: str = NODE,
) -> dict[str, Any]:
    """Build the `account.notice.v1` event of a crossed threshold.

    Its id derives from account, limit, key (for a limit per key), period and percentage, so
    repeated events of one threshold and period are copies.
    """
    limit, account = crossing.limit, key.account.id
    counter = f"{limit.id}/{key.id}" if limit.per == "key" else limit.id
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
    identity = f"notice/{account}/{counter}/{crossing.period_end_us}/{crossing.percent}"
    return cloud_event(identity, source, "account.notice.v1", account, time, data, clock)


def cloud_event(
    identity: str, source: str, kind: str, account: str, time: str, data: dict[str, Any], clock: str
) -> dict[str, Any]:
    """Build an event of this type about an account. `time` is by `clock`."""
    return {
        "specversion": "1.0",
        "id": identity,
        "source": source,
        "type": kind,
        "subject": account,
        "time": time,
        "clock": clock,
        "datacontenttype": "application/json",
        "data": data,
    }
