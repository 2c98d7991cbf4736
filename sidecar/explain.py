"""Explanations of decisions: the gate decides on a store that only peeks.

Nothing is reserved, recorded or changed. `sidecar explain` prints an explanation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sidecar.clock import Clock
from sidecar.core import limits
from sidecar.core.answers import Answer, Hold, QuotaDetail
from sidecar.core.costs import Unreadable
from sidecar.core.decision import status_of
from sidecar.core.identity import anonymous_key, key_digest
from sidecar.core.jobs.deferral import fits_later, may_run_later
from sidecar.core.limits import Grant, State
from sidecar.core.model import (
    MICRO,
    TEAM,
    Account,
    Claim,
    Entitlement,
    Key,
    PlanBook,
    QuotaLimit,
    RateLimit,
    TeamShare,
    WhenDown,
)
from sidecar.core.paths import Normaliser, normalise
from sidecar.core.readings import Reading
from sidecar.core.reasons import Decision, Reason
from sidecar.core.refusals.build import http_problem
from sidecar.core.refusals.rendering import render_text
from sidecar.core.teams import team_use
from sidecar.core.text import instant, speed, unit_of
from sidecar.errors import StoreUnavailable
from sidecar.gate import Admission, Deferred, Entitler, Gate, Recorder, Refused, Reserver
from sidecar.metrics import Metrics
from sidecar.ports import KeyDirectory, LimitStore


class PeekStore:
    """Implements `ports.LimitStore`: `reserve` only peeks.

    `answer`: the real store's last answer; None without one, and `problem` is the reason.
    """

    def __init__(self, store: LimitStore | None, problem: str) -> None:
        self._store = store
        self.problem = problem
        self.answer: Answer | None = None

    @property
    def up(self) -> bool:
        return self._store is not None

    async def peek(self, account: Account, key_id: str, claims: Sequence[Claim]) -> Answer:
        """Return the real store's answer. Raises StoreUnavailable."""
        if self._store is None:
            raise StoreUnavailable(self.problem)
        try:
            self.answer = await self._store.peek(account, key_id, claims)
        except StoreUnavailable as error:
            self.problem = str(error)
            raise
        return self.answer

    async def reserve(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        *,
        hold: Hold | None = None,  # noqa: ARG002 - the port's
        once: bool = False,  # noqa: ARG002
        when_down: WhenDown = "deny",  # noqa: ARG002
    ) -> Answer:
        """Return the answer after a grant, so that the decision has overage and notices."""
        answer = await self.peek(account, key_id, claims)
        if not answer.granted:
            return answer
        details = answer.details or (QuotaDetail(),) * len(claims)
        after = [_granted(*one) for one in zip(claims, answer.used, details, strict=True)]
        used, details = tuple(one[0] for one in after), tuple(one[1] for one in after)
        return answer._replace(used=used, details=details)

    def settle(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        hold_id: str,
        on_settled: Callable[[Answer], None] | None = None,
    ) -> None:
        """Do nothing: nothing was reserved."""


def _granted(claim: Claim, used: int, detail: QuotaDetail) -> tuple[int, QuotaDetail]:
    """What a grant would leave of a limit: the counter, and its detail."""
    limit, weight = claim.limit, claim.limit.weight(claim.cost)
    grants = [Grant("", "", detail.left, 0)]
    state, _, burned = limits.add(limit, State(used, carried=detail.carried), grants, weight)
    if limit.kind is TEAM:
        return state.used, detail._replace(notified=max(0, detail.notified - weight))
    return state.used, detail._replace(left=detail.left - burned, burned=burned)


class NullSpool:
    """Implements `ports.Spool`: an explained request has no event."""

    accepting = True

    def append(self, event: dict[str, Any] | bytes) -> None:
        """Drop it."""


@dataclass
class ExplainedRequest:
    """The request to explain. Implements `gate.InboundRequest`."""

    method: str
    target: bytes
    api_keys: list[bytes] = field(default_factory=list)
    authorizations: list[bytes] = field(default_factory=list)
    address: str = "127.0.0.1"
    waiting: bool = False
    size: int = 0
    patience_us: int | None = None


@dataclass(frozen=True)
class ExplainOptions:
    """Settings of `serve` that decide, too. `jobs`: whether requests are deferred at all."""

    paths: Normaliser = normalise
    ignore_case: bool = False
    reserved_prefix: str = "/-/"
    jobs: bool = True


class OneKeyDirectory:
    """Implements `ports.KeyDirectory`: any digest is that of one key."""

    def __init__(self, key: Key) -> None:
        self._key = key

    def cached(self, digest: bytes) -> Key | None:  # noqa: ARG002 - the port's
        return self._key

    async def find(self, digest: bytes) -> Key | None:  # noqa: ARG002 - the port's
        return self._key


async def explain(
    book: PlanBook,
    store: LimitStore | None,
    directory: KeyDirectory,
    request: ExplainedRequest,
    options: ExplainOptions,
    *,
    respond_async: bool = False,
    store_problem: str = "",
) -> dict[str, Any]:
    """Return everything that decides a request, as JSON values.

    `respond_async`: the client prefers to be deferred. `store_problem`: why `store` is None.
    """
    target = request.target.decode()
    key = await _key_of(book, directory, request)
    explanation: dict[str, Any] = {
        "request": f"{request.method} {target}",
        "plan_version": book.version,
        "identity": None if key is None else _identity(key, book, request),
    }
    if target.startswith(options.reserved_prefix):
        refusal = http_problem(404, "Nothing here", _reserved(options.reserved_prefix), "")
        return explanation | {"decision": _decision(Refused("", refusal))}
    peeked, clock = PeekStore(store, store_problem), Clock()
    gate = Gate(
        Entitler(
            book,
            directory,
            lambda: clock.now_ns() // 1000,
            paths=options.paths,
            ignore_case=options.ignore_case,
        ),
        Reserver(peeked),
        Recorder(NullSpool(), Metrics(), clock, "/sidecar/explain"),
    )
    has_key = bool(request.api_keys)  # a job runs with the key of its request

    def may_defer(_: object, entitlement: Entitlement, decision: Decision) -> bool:
        may = options.jobs and has_key and may_run_later(entitlement, asked=respond_async)
        return may and fits_later(decision)

    result = await gate.admit(request, _default_costs, may_defer)
    key = result.key or key
    entitlement = None if key is None else gate.entitle(request, key)
    if entitlement is not None and not isinstance(entitlement, Reason):
        explanation |= _route(entitlement)
        explanation["limits"] = _limits(book, entitlement.claims, peeked.answer)
        if peeked.answer is None and entitlement.claims and not entitlement.missing:
            explanation["state_unknown"] = peeked.problem
    explanation["decision"] = _decision(result)
    return explanation


async def _default_costs(entitlement: Entitlement) -> Reading:
    return Reading.failed((meter for meter, _ in entitlement.estimates), Unreadable.MISSING)


def _reserved(prefix: str) -> str:
    return f"Paths under {prefix} are reserved for the sidecar and never forwarded."


async def _key_of(book: PlanBook, directory: KeyDirectory, request: ExplainedRequest) -> Key | None:
    """Return the request's key, also that of a suspended account; None if it is unknown."""
    if not request.api_keys:
        plan = book.anonymous_plan
        return None if plan is None else anonymous_key(request.address, plan)
    digest = key_digest(request.api_keys[0])
    try:
        return book.keys.get(digest) or await directory.find(digest)
    except StoreUnavailable:
        return None


def _identity(key: Key, book: PlanBook, request: ExplainedRequest) -> dict[str, Any]:
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


def _route(entitlement: Entitlement) -> dict[str, Any]:
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


def _limits(book: PlanBook, claims: Sequence[Claim], answer: Answer | None) -> list[dict[str, Any]]:
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


def _decision(result: Admission | Refused | Deferred) -> dict[str, Any]:
    if isinstance(result, Admission):
        decision = result.decision
        return {
            "allowed": True,
            "reason": str(decision.reason),
            "overage": dict(decision.overage),
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
