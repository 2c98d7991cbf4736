"""Refusals with an explanation: which limit, how much of what, until when, how to fix it.

Bodies are RFC 9457 problem details. They never contain what the client sent.
"""

from dataclasses import dataclass, replace
from typing import Final

from sidecar.core.kinds import MICRO, ConcurrencyLimit, QuotaLimit, RateLimit
from sidecar.core.model import Account, Entitlement, PlanBook
from sidecar.core.reasons import Decision, LimitStatus, Reason, TeamUse
from sidecar.core.refusals.advice import read_docs, steps, upgrade
from sidecar.core.refusals.problems import (
    ABNORMAL_USAGE,
    QUOTA_EXCEEDED,
    SHED_BY_SHARE,
    SPECS,
    Fields,
    Spec,
    Step,
    http_spec,
)
from sidecar.core.refusals.ratelimit_fields import ratelimit_field
from sidecar.core.text import adjective, amount, current, instant, span, speed, unit_of

_SPREAD_OF_S: Final = 300  # waits up to this are spread by a tenth, longer ones by 30 s


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer in place of the API's.

    `reason`: a `Reason`, or for errors of HTTP itself a text like "http-413"; a finite set.
    `retry_after_s`: whole seconds for Retry-After, None if waiting does not help. `headers`:
    further fields, without Retry-After, Cache-Control and those of every response.
    """

    status: int
    reason: str
    problem: dict[str, object]
    retry_after_s: int | None
    headers: Fields


def simple_refusal(
    reason: Reason, request_id: str, detail: str | None = None, jitter: int = 0
) -> Refusal:
    """Return a refusal that no limit caused. `detail` replaces the usual sentence.

    `jitter`, 0 to 99, spreads Retry-After by as many percent. Raises KeyError for a reason that
    does not refuse, or that needs a limit (`limit_refusal`).
    """
    return _refusal(SPECS[reason], reason, request_id, detail, jitter)


def with_wait(refusal: Refusal, queued_us: int) -> Refusal:
    """Return the refusal with the fields of a request that waited for this long; 0: it did not."""
    if not queued_us:
        return refusal
    return replace(refusal, headers=refusal.headers + wait_fields(queued_us))


def wait_fields(queued_us: int) -> Fields:
    """Return the fields that report how long the request waited.

    One is for programs, and one for browsers (W3C Server Timing).
    """
    ms = b"%d" % -(-queued_us // 1000)
    return (b"X-Queued-Ms", ms), (b"Server-Timing", b"queued;dur=" + ms)


def http_problem(
    status: int, title: str, detail: str, request_id: str, headers: Fields = ()
) -> Refusal:
    """Return the answer to an error of HTTP itself. Raises KeyError for an unknown status."""
    spec = replace(http_spec(status, title, detail), headers=headers)
    return _refusal(spec, f"http-{status}", request_id)


def _refusal(
    spec: Spec, reason: str, request_id: str, detail: str | None = None, jitter: int = 0
) -> Refusal:
    problem: dict[str, object] = {
        "type": spec.type,
        "title": spec.title,
        "status": spec.status,
        "detail": detail or spec.detail,
        "how_to_fix": [dict(step) for step in spec.how_to_fix],
        "request_id": request_id,
    }
    retry = spec.retry_after_s
    if retry is not None:
        retry += retry * jitter // 100
    return Refusal(spec.status, reason, problem, retry, spec.headers)


def feature_refusal(
    book: PlanBook, entitlement: Entitlement, account: Account, request_id: str
) -> Refusal:
    """Return a 403: the plan lacks a feature that the route needs. Names the plan that has it."""
    spec = SPECS[Reason.FEATURE]
    missing = " and ".join(entitlement.missing)
    noun = "feature" if len(entitlement.missing) == 1 else "features"
    lacks = (
        f"{entitlement.route.match} needs the {noun} {missing}, which plan {entitlement.plan.id} "
        f"of account {account.id} does not include. "
    )
    how_to_fix: list[Step]
    if entitlement.missing_in is None:
        detail = lacks + "No plan includes all the features that it needs."
        how_to_fix = [{"action": "ask", "what": "Ask the API's team for access."}]
    else:
        detail = lacks + f"Plan {entitlement.missing_in} does."
        how_to_fix = [upgrade(entitlement.missing_in, book.links)]
    problem: dict[str, object] = {
        "type": spec.type,
        "title": spec.title,
        "status": spec.status,
        "detail": detail,
        "missing_features": list(entitlement.missing),
        "how_to_fix": how_to_fix + read_docs(book.links),
        "request_id": request_id,
    }
    return Refusal(spec.status, Reason.FEATURE, problem, None, ())


def limit_refusal(
    book: PlanBook,
    entitlement: Entitlement,
    account: Account,
    decision: Decision,
    request_id: str,
    jitter: int,
) -> Refusal:
    """Return a 429. It explains the violated limit that takes longest to recover.

    `jitter`, 0 to 99, is how many percent of the spread (a tenth of the wait, at most 30 s) are
    added to Retry-After. Raises ValueError if the decision violates no limit.
    """
    if not decision.violated:
        raise ValueError("a limit refusal needs a violated limit")
    worst = decision.violated[0]
    unit = unit_of(book.meters, worst.claim.limit)
    abuse = decision.reason is Reason.ABUSE
    problem: dict[str, object] = {
        "type": ABNORMAL_USAGE if abuse else QUOTA_EXCEEDED,
        "title": _title(worst, abuse),
        "status": 429,
        "detail": _detail(worst, entitlement, account, decision, unit),
        "violated-policies": [one.claim.limit.id for one in decision.violated],
        "limit": _limit_member(worst),
        "still_available": [] if abuse else list(entitlement.still_available),
        "how_to_fix": steps(book, entitlement, account, decision),
        "request_id": request_id,
    }
    retry = None if decision.retry_us is None else _retry_after(decision.retry_us, jitter)
    return Refusal(429, decision.reason, problem, retry, _fields(entitlement, decision))


def _retry_after(retry_us: int, jitter: int) -> int:
    wait = max(1, -(-retry_us // MICRO))
    return wait + jitter * min(wait, _SPREAD_OF_S) // 1000


def _fields(entitlement: Entitlement, decision: Decision) -> Fields:
    policy, tightest = entitlement.policy_field, decision.tightest
    fields: list[tuple[bytes, bytes]] = []
    if policy:
        fields.append((b"RateLimit-Policy", policy))
    if tightest is not None:
        fields.append((b"RateLimit", ratelimit_field(tightest, decision.now_us)))
    return tuple(fields)


def _title(worst: LimitStatus, abuse: bool) -> str:
    limit = worst.claim.limit
    if abuse:
        return "Unusually many critical requests"
    if isinstance(limit, RateLimit):
        return "Rate limit reached"
    if isinstance(limit, ConcurrencyLimit):
        return "Too many requests at once"
    name = adjective(limit.period)
    if worst.team is not None:
        nothing = "nothing" if worst.remaining == 0 else "too little"
        return f"{name} quota: {nothing} left for this team"
    return f"{name} quota used up" if worst.remaining == 0 else f"{name} quota too small"


def _detail(
    worst: LimitStatus, entitlement: Entitlement, account: Account, decision: Decision, unit: str
) -> str:
    limit, cost = worst.claim.limit, worst.claim.cost
    owner = f"account {account.id} on plan {entitlement.plan.id}"
    subject = f"This API key of {owner}" if limit.per == "key" else f"A{owner[1:]}"
    if isinstance(limit, RateLimit):
        text = (
            f"{subject} may use {speed(limit, unit)}, at most {limit.burst:,} at once, "
            f"and has {worst.remaining:,} left now."
        )
        most, recovers = limit.burst, "Enough is back"
    elif isinstance(limit, ConcurrencyLimit):
        return (
            f"{subject} may have {amount(limit.slots, unit)} in flight at once, and all are. "
            "As soon as one has ended, another can begin."
        )
    elif worst.team is not None:
        text = _team_text(worst.team, owner, unit, current(limit.period))
        most, recovers = worst.team.most, "It resets"
    else:
        text = (
            f"{subject} has used {worst.used:,} of {amount(worst.limit_units, unit)} "
            f"{current(limit.period)}."
        )
        most, recovers = limit.capacity, "It resets"
        if most > limit.units:
            text += f" The plan allows overage up to {most:,}."
    if worst.reset_us is None:
        return (
            f"{text} This request alone costs {cost:,}, more than the limit of {most:,} ever "
            "allows: waiting does not help."
        )
    if cost > 1:
        text += f" This request costs {cost:,}."
    when = f"on {instant(worst.reset_us)}"
    if isinstance(limit, RateLimit):
        when = f"in {span(max(1, -(-(worst.reset_us - decision.now_us) // MICRO)))}"
    return f"{text} {recovers} {when}."


def _team_text(use: TeamUse, owner: str, unit: str, now: str) -> str:
    if use.team:
        lent = max(0, use.guaranteed - use.used) - use.kept
        note = f", {lent:,} of them were lent as time passed" if lent > 0 else ""
        text = (
            f"Team {use.team} of {owner} has used {amount(use.used, unit)} {now} "
            f"({use.guaranteed:,} are guaranteed to it{note})"
        )
    else:
        text = f"An API key without a team of {owner} is guaranteed nothing"
    rest = f"{min(use.others, use.room):,} of the {amount(use.room, unit)}"
    left = f" It may use {use.left:,} more now." if use.left else ""
    return f"{text}; {rest} that the account has left are guaranteed to other teams.{left}"


def _limit_member(worst: LimitStatus) -> dict[str, object]:
    limit = worst.claim.limit
    member: dict[str, object] = {
        "id": limit.id,
        "meter": limit.meter,
        "limit": worst.limit_units,
        "used": worst.used,
        "resets_at": None if worst.reset_us is None else instant(worst.reset_us),
    }
    if isinstance(limit, QuotaLimit) and limit.cap > limit.units:
        member["hard_cap"] = limit.cap
    if limit.per == "key":
        member["per"] = "key"
    if worst.team is not None:
        member["team"] = {
            "id": worst.team.team or None,
            "guaranteed": worst.team.guaranteed,
            "used": worst.team.used,
            "left": worst.team.left,
            "guaranteed_to_others": worst.team.others,
        }
    return member


def shed_refusal(
    entitlement: Entitlement, request_id: str, wait_s: int, jitter: int, *, by_share: bool = False
) -> Refusal:
    """Return a 503: the API is overloaded. Names the routes that are never shed.

    `by_share`: requests of other accounts would not be shed.

    `jitter`, 0 to 99, spreads Retry-After from `wait_s` to twice that plus a second, so that
    clients that were shed together do not return together.
    """
    spec = SPECS[Reason.SHED]
    retry = wait_s + (wait_s + 2) * jitter // 100
    problem: dict[str, object] = {
        "type": spec.type,
        "title": spec.title,
        "status": spec.status,
        "detail": SHED_BY_SHARE if by_share else spec.detail,
        "class": entitlement.route.request_class,
        "still_available": list(entitlement.still_available),
        "how_to_fix": [{"action": "wait", "seconds": retry}],
        "request_id": request_id,
    }
    return Refusal(spec.status, Reason.SHED, problem, retry, ())
