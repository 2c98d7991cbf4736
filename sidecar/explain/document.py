"""The members of an explanation, as JSON values."""

from collections.abc import Sequence
from typing import Any

from sidecar.core.answers import Answer
from sidecar.core.counting.teams import team_use
from sidecar.core.decision import status_of
from sidecar.core.kinds import MICRO, QuotaLimit, RateLimit, TeamShare
from sidecar.core.model import Claim, Entitlement, Key, PlanBook
from sidecar.core.refusals.rendering import render_text
from sidecar.core.text import instant, speed, unit_of
from sidecar.explain.request import ExplainedRequest
from sidecar.gate import Admission, Deferred, Refused


def identity(key: Key, book: PlanBook, request: ExplainedRequest) -> dict[str, Any]:
    known_from = "redis" if request.api_keys else "no credential"
    if key.account.id in book.accounts:
        known_from = "plan file"
    return {
        "account": key.account.id,
        "key": key.id,
        "team": key.counted_team or None,
        "plan": key.account.plan,
        "timezone": key.account.timezone,
        "suspended": key.account.suspended,
        "known_from": known_from,
    }


def route(entitlement: Entitlement) -> dict[str, Any]:
    route = entitlement.route
    return {
        "route": {"id": route.id, "match": route.match},
        "class": str(route.request_class),
        "features": {
            "plan": sorted(entitlement.plan.features),
            "needed": sorted(route.needs),
            "missing": list(entitlement.missing),
            "missing_in": entitlement.missing_in,
        },
    }


def limit_rows(
    book: PlanBook, claims: Sequence[Claim], answer: Answer | None
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for at, claim in enumerate(claims):
        limit = claim.limit
        if isinstance(limit, TeamShare):
            rows[-1]["team"] = _team(limit, claims, answer, at)
            continue
        row: dict[str, Any] = {
            "id": limit.id,
            "kind": limit.kind.reason,
            "meter": limit.meter,
            "unit": unit_of(book.meters, limit),
            "per": limit.per,
            "cost": claim.cost,
            "limit": limit.capacity,
        }
        if isinstance(limit, RateLimit):
            row["rate"] = speed(limit, row["unit"])
        elif isinstance(limit, QuotaLimit):
            row |= {"limit": limit.units, "period": limit.period}
            if limit.cap != limit.units:
                row["hard_cap"] = limit.cap
        if limit.shadow:
            row["shadow"] = True
        if answer is not None:
            row |= _state(claims, answer, at)
        rows.append(row)
    return rows


def _team(
    share: TeamShare, claims: Sequence[Claim], answer: Answer | None, at: int
) -> dict[str, Any]:
    """The member `team` in the row of the share's quota."""
    team = {"id": share.team or None, "guaranteed": share.units, "lends": share.lends}
    if answer is None:
        return team
    use = team_use(claims, answer, at)
    return team | {
        "used": use.used,
        "guarantee_left": use.kept,
        "guaranteed_to_others": use.others,
        "remaining": status_of(claims, answer, at).remaining,
    }


def _state(claims: Sequence[Claim], answer: Answer, at: int) -> dict[str, Any]:
    limit, used, status = claims[at].limit, answer.used[at], status_of(claims, answer, at)
    state: dict[str, Any] = {"used": status.used, "remaining": status.remaining}
    reset_us: int | None = None
    if isinstance(limit, QuotaLimit):
        reset_us = answer.ends_us[at]
        if answer.details:
            detail = answer.details[at]
            extra = {"carried_over": detail.carried, "grants": detail.left}
            state |= {name: units for name, units in extra.items() if units}
    elif isinstance(limit, RateLimit) and used > 0:
        gain, per = limit.refill
        reset_us = answer.now_us - (used * per // -gain)
    return state | {"resets_at": None if reset_us is None else instant(reset_us)}


def decision(result: Admission | Refused | Deferred) -> dict[str, Any]:
    if isinstance(result, Admission):
        decision = result.decision
        return {
            "allowed": True,
            "reason": str(decision.reason),
            "overage": dict(decision.overage.meters),
            "notices": [f"{one.percent}% of {one.limit.id}" for one in decision.crossings],
        }
    refusal, deferred = result.refusal, isinstance(result, Deferred)
    wait = None if result.decision is None else result.decision.wait
    # Nothing was sent, so the request id is left out.
    lines = render_text(refusal).decode().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("Request id:"))
    return {
        "allowed": False,
        "deferred": deferred,
        "wait_s": None if wait is None else wait.span_us / MICRO,
        "status": 202 if deferred else refusal.status,
        "reason": str(refusal.reason),
        "retry_after_s": refusal.retry_after_s,
        "problem": {name: one for name, one in refusal.problem.items() if name != "request_id"},
        "text": text.rstrip(),
    }
