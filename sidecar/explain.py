"""What `sidecar explain` says: the gate's own decision, taken on a store that only peeks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sidecar.clock import Clock
from sidecar.core.answers import Answer, Hold, QuotaDetail
from sidecar.core.costs import Unreadable
from sidecar.core.decision import standing
from sidecar.core.identity import fingerprint
from sidecar.core.jobs.deferral import fits_later, may_run_later
from sidecar.core.model import (
    MICRO,
    Account,
    Claim,
    ConcurrencyLimit,
    Entitlement,
    Key,
    PlanBook,
    QuotaLimit,
    RateLimit,
    TeamShare,
    WhenDown,
)
from sidecar.core.paths import BadTarget, Normaliser, normalise
from sidecar.core.readings import Reading
from sidecar.core.reasons import Decision
from sidecar.core.refusals.build import http_problem
from sidecar.core.refusals.rendering import render_text
from sidecar.core.routing import RouteTable
from sidecar.core.survey import kind_of, weight
from sidecar.core.teams import TeamEntitlements, use_of
from sidecar.core.text import instant, speed, unit_of
from sidecar.errors import StoreUnavailable
from sidecar.gate import Admission, Deferred, Gate, Refused
from sidecar.metrics import Metrics
from sidecar.ports import LimitStore


class Peeking:
    """A LimitStore that answers `reserve` by peeking, and remembers what it saw."""

    def __init__(self, store: LimitStore | None, why: str) -> None:
        self._store = store
        self.why_unknown = why  # without a store, why there is none
        self.seen: Answer | None = None

    @property
    def up(self) -> bool:
        return self._store is not None

    async def peek(self, account: Account, key_id: str, claims: Sequence[Claim]) -> Answer:
        if self._store is None:
            raise StoreUnavailable(self.why_unknown)
        try:
            self.seen = await self._store.peek(account, key_id, claims)
        except StoreUnavailable as error:
            self.why_unknown = str(error)
            raise
        return self.seen

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
        """The answer as a grant would leave it, so that overage and notices are told."""
        found = await self.peek(account, key_id, claims)
        if not found.granted:
            return found
        besides = found.besides or (QuotaDetail(),) * len(claims)
        used, beside = [], []
        for before, claim, more in zip(found.used, claims, besides, strict=True):
            limit, cost, burned = claim.limit, weight(claim), 0
            if isinstance(limit, TeamShare):
                more = more._replace(told=max(0, more.told - cost))
            elif isinstance(limit, QuotaLimit):
                own = max(0, limit.units + more.carried - before)
                burned = min(max(0, cost - own), more.left)
            used.append(before + cost - burned)
            beside.append(more._replace(left=more.left - burned, burned=burned))
        return Answer(True, found.now_us, tuple(used), found.ends_us, tuple(beside))

    def settle(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        hold_id: str,
        told: Callable[[Answer], None] | None = None,
    ) -> None:
        """Nothing was reserved."""


class Known:
    """A KeyDirectory that holds one key, or none, whatever is asked for."""

    def __init__(self, key: Key | None, unavailable: str = "") -> None:
        self._key = key
        self._unavailable = unavailable

    def cached(self, digest: bytes) -> Key | None:  # noqa: ARG002 - the port's signature
        return self._key

    async def find(self, digest: bytes) -> Key | None:  # noqa: ARG002 - the port's signature
        if self._unavailable:
            raise StoreUnavailable(self._unavailable)
        return self._key


@dataclass
class Asked:
    """The call to explain, as a door would tell it."""

    method: str
    target: bytes
    api_keys: list[bytes]
    authorizations: list[bytes] = field(default_factory=list)
    address: str = "127.0.0.1"
    waiting: bool = False
    size: int = 0
    patience_us: int | None = None


async def _defaults(entitlement: Entitlement) -> Reading:
    """There is no body to read: estimates are the plan's defaults."""
    return Reading.nothing((meter for meter, _ in entitlement.estimates), Unreadable.MISSING)


class Unwritten:
    """A Spool that keeps nothing: an explained call is not a call."""

    accepting = True

    def append(self, event: dict[str, Any] | bytes) -> None:
        """Drop it."""


async def explain_call(
    book: PlanBook,
    store: Peeking,
    directory: Known,
    key: Key | None,
    *,
    secret: bytes | None,
    method: str,
    target: str,
    paths: Normaliser = normalise,
    ignore_case: bool = False,
    reserved_prefix: str = "/-/",
    jobs: bool = True,
    respond_async: bool = False,
) -> dict[str, Any]:
    """Everything that decides one call, as JSON can hold it. Changes nothing anywhere.

    `jobs`: whether calls are deferred at all; `respond_async`: the client asks for it.
    """
    told: dict[str, Any] = {
        "request": f"{method} {target}",
        "plan_version": book.version,
        "identity": _identity(key, secret, book),
    }
    if target.startswith(reserved_prefix):
        return told | {"decision": _decision(_kept_for_itself(reserved_prefix))}
    gate = Gate(
        book,
        store=store,
        directory=directory,
        spool=Unwritten(),
        metrics=Metrics(),
        clock=Clock(),
        source="/sidecar/explain",
        paths=paths,
        ignore_case=ignore_case,
    )
    secrets = [] if secret is None else [secret]
    keeps = jobs and secret is not None  # a job runs with its caller's key

    def defers(_: object, found: Entitlement, decision: Decision) -> bool:
        return keeps and may_run_later(found, asked=respond_async) and fits_later(decision)

    result = await gate.admit(Asked(method, target.encode(), secrets), _defaults, defers)
    routes = RouteTable(book.routes, paths, ignore_case=ignore_case)
    entitlement = _entitlement(book, routes, key, method, target)
    if entitlement is not None:
        told["route"] = {"id": entitlement.route.id, "match": entitlement.route.match}
        told["class"] = str(entitlement.route.request_class)
        told["features"] = {
            "plan": sorted(entitlement.plan.features),
            "needed": sorted(entitlement.route.needs),
            "missing": list(entitlement.missing),
            "missing_in": entitlement.missing_in,
        }
        told["limits"] = _limits(book, entitlement, store.seen)
        if store.seen is None and entitlement.claims and not entitlement.missing:
            told["state_unknown"] = store.why_unknown
    told["decision"] = _decision(result)
    return told


def _kept_for_itself(prefix: str) -> Refused:
    """The gate is not asked about these paths: the data port answers them."""
    why = (
        f"Paths under {prefix} are the sidecar's own: they are never forwarded, and none is served."
    )
    return Refused("", http_problem(404, "Nothing here", why, ""))


def _entitlement(
    book: PlanBook, routes: RouteTable, key: Key | None, method: str, target: str
) -> Entitlement | None:
    try:
        route = routes.find(method, target.encode())
    except BadTarget:
        return None
    if route is None or key is None:
        return None
    found = book.entitlements.get((key.account.plan, route.id))
    if found is None or not key.account.teams:
        return found
    return TeamEntitlements().of(found, key)


def _identity(key: Key | None, secret: bytes | None, book: PlanBook) -> dict[str, Any] | None:
    if key is None:
        return None
    in_file = secret is not None and fingerprint(secret) in book.keys
    return {
        "account": key.account.id,
        "key": key.id,
        "team": key.counted_team or None,
        "plan": key.account.plan,
        "timezone": key.account.timezone,
        "suspended": key.account.suspended,
        "known_from": "plan file" if in_file or key.account.id in book.accounts else
        "no credential" if secret is None else "redis",
    }  # fmt: skip


_KINDS = {"rate": "rate", "quota": "quota", "slots": "concurrency"}


def _limits(book: PlanBook, entitlement: Entitlement, seen: Answer | None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for at, claim in enumerate(entitlement.claims):
        limit = claim.limit
        if isinstance(limit, TeamShare):
            rows[-1]["team"] = _team(limit, entitlement.claims, seen, at)
            continue
        row: dict[str, Any] = {
            "id": limit.id,
            "kind": _KINDS[kind_of(claim)],
            "meter": limit.meter,
            "unit": unit_of(book.meters, limit),
            "per": limit.per,
            "cost": claim.cost,
        }
        if isinstance(limit, RateLimit):
            row |= {"limit": limit.burst, "rate": speed(limit, row["unit"])}
        elif isinstance(limit, ConcurrencyLimit):
            row["limit"] = limit.slots
        else:
            row |= {"limit": limit.units, "period": limit.period}
            if limit.cap != limit.units:
                row["hard_cap"] = limit.cap
        if limit.shadow:
            row["shadow"] = True
        if seen is not None:
            row |= _state(entitlement.claims, seen, at)
        rows.append(row)
    return rows


def _team(
    share: TeamShare, claims: Sequence[Claim], seen: Answer | None, at: int
) -> dict[str, Any]:
    """A team's share, in the row of its quota."""
    told = {"id": share.team or None, "guaranteed": share.units, "lends": share.lends}
    if seen is None:
        return told
    use = use_of(claims, seen, at)
    remaining = standing(claims, seen, at).remaining
    return told | {
        "used": use.used, "kept": use.kept, "guaranteed_to_others": use.others,
        "remaining": remaining,
    }  # fmt: skip


def _state(claims: Sequence[Claim], seen: Answer, at: int) -> dict[str, Any]:
    limit, used, now = claims[at].limit, seen.used[at], standing(claims, seen, at)
    state: dict[str, Any] = {"used": now.used, "remaining": now.remaining}
    if isinstance(limit, QuotaLimit):
        if seen.besides:
            extra = {"carried_over": seen.besides[at].carried, "grants": seen.besides[at].left}
            state |= {name: units for name, units in extra.items() if units}
        return state | {"resets_at": instant(seen.ends_us[at])}
    if isinstance(limit, ConcurrencyLimit):
        return state | {"resets_at": None}
    gain, per = limit.refill
    full_us = seen.now_us - (used * per // -gain) if used > 0 else None
    return state | {"resets_at": None if full_us is None else instant(full_us)}


def _decision(result: Admission | Refused | Deferred) -> dict[str, Any]:
    if not isinstance(result, Admission):
        refusal = result.refusal
        # No request was made, so nobody could ask about its id.
        problem = {name: value for name, value in refusal.problem.items() if name != "request_id"}
        text = [
            line
            for line in render_text(refusal).decode().splitlines()
            if not line.startswith("Request id:")
        ]
        told = result.decision
        waits = None if told is None else told.wait
        return {
            "allowed": False,
            "deferred": isinstance(result, Deferred),
            "held_s": None if waits is None else waits.span_us / MICRO,
            "status": 202 if isinstance(result, Deferred) else refusal.status,
            "reason": str(refusal.reason),
            "retry_after_s": refusal.retry_after_s,
            "problem": problem,
            "text": "\n".join(text).rstrip(),
        }
    decision = result.decision
    return {
        "allowed": True,
        "reason": str(decision.reason),
        "overage": dict(decision.overage),
        "notices": [f"{one.percent}% of {one.limit.id}" for one in decision.crossings],
    }
