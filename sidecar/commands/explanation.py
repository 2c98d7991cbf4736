"""What `sidecar explain` says: the gate's own decision, taken on a store that only peeks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sidecar.clock import Clock
from sidecar.core.identity import fingerprint
from sidecar.core.model import (
    MICRO,
    Account,
    Answer,
    Claim,
    Entitlement,
    Key,
    PlanBook,
    RateLimit,
    Reason,
    Unreadable,
)
from sidecar.core.paths import BadTarget
from sidecar.core.reading import Reading
from sidecar.core.refusals import render_text
from sidecar.core.routing import RouteTable
from sidecar.core.words import amount, instant, speed, unit_of
from sidecar.errors import StoreUnavailable
from sidecar.gate import Admission, Gate, Refused
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
        once: bool = False,  # noqa: ARG002 - the port's
        blind: bool = False,  # noqa: ARG002
    ) -> Answer:
        """The answer as a grant would leave it, so that overage and notices are told."""
        found = await self.peek(account, key_id, claims)
        if not found.granted:
            return found
        after = tuple(
            used + (claim.cost * MICRO if isinstance(claim.limit, RateLimit) else claim.cost)
            for used, claim in zip(found.used, claims, strict=True)
        )
        return Answer(True, found.now_us, after, found.ends_us)


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


async def _defaults(entitlement: Entitlement) -> Reading:
    """There is no body to read: estimates are the plan's defaults."""
    return Reading.nothing((meter for meter, _ in entitlement.estimates), Unreadable.MISSING)


class Unwritten:
    """A Spool that keeps nothing: an explained call is not a call."""

    accepting = True

    def append(self, event: dict[str, Any]) -> None:
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
) -> dict[str, Any]:
    """Everything that decides one call, as JSON can hold it. Changes nothing anywhere."""
    gate = Gate(
        book,
        store=store,
        directory=directory,
        spool=Unwritten(),
        metrics=Metrics(),
        clock=Clock(),
        source="/sidecar/explain",
    )
    secrets = [] if secret is None else [secret]
    result = await gate.admit(Asked(method, target.encode(), secrets), _defaults)
    entitlement = _entitlement(book, key, method, target)
    told: dict[str, Any] = {
        "request": f"{method} {target}",
        "plan_version": book.version,
        "identity": _identity(key, secret, book),
    }
    if entitlement is not None:
        told["route"] = {"id": entitlement.route.id, "match": entitlement.route.match}
        told["class"] = str(entitlement.route.call_class)
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


def _entitlement(book: PlanBook, key: Key | None, method: str, target: str) -> Entitlement | None:
    try:
        route = RouteTable(book.routes).find(method, target.encode())
    except BadTarget:
        return None
    if route is None or key is None:
        return None
    return book.entitlements.get((key.account.plan, route.id))


def _identity(key: Key | None, secret: bytes | None, book: PlanBook) -> dict[str, Any] | None:
    if key is None:
        return None
    in_file = secret is not None and fingerprint(secret) in book.keys
    return {
        "account": key.account.id,
        "key": key.id,
        "plan": key.account.plan,
        "timezone": key.account.timezone,
        "suspended": key.account.suspended,
        "known_from": "plan file" if in_file or key.account.id in book.accounts else
        "no credential" if secret is None else "redis",
    }  # fmt: skip


def _limits(book: PlanBook, entitlement: Entitlement, seen: Answer | None) -> list[dict[str, Any]]:
    rows = []
    for at, claim in enumerate(entitlement.claims):
        limit = claim.limit
        rate = isinstance(limit, RateLimit)
        row: dict[str, Any] = {
            "id": limit.id,
            "kind": "rate" if rate else "quota",
            "meter": limit.meter,
            "unit": unit_of(book.meters, limit),
            "per": limit.per,
            "cost": claim.cost,
            "limit": limit.burst if isinstance(limit, RateLimit) else limit.units,
        }
        if isinstance(limit, RateLimit):
            row["rate"] = speed(limit, row["unit"])
        elif limit.cap != limit.units:
            row["hard_cap"] = limit.cap
        if seen is not None:
            row |= _state(claim, seen.used[at], seen.ends_us[at], seen.now_us)
        rows.append(row)
    return rows


def _state(claim: Claim, used: int, ends_us: int, now_us: int) -> dict[str, Any]:
    limit = claim.limit
    if not isinstance(limit, RateLimit):
        left = max(0, limit.units - used)
        return {"used": used, "remaining": left, "resets_at": instant(ends_us)}
    left = max(0, limit.burst * MICRO - used) // MICRO
    gain, per = limit.refill
    full_us = now_us - (used * per // -gain) if used > 0 else None
    full = None if full_us is None else instant(full_us)
    return {"used": -(-used // MICRO), "remaining": left, "resets_at": full}


def _decision(result: Admission | Refused) -> dict[str, Any]:
    if isinstance(result, Refused):
        refusal = result.refusal
        # No request was made, so nobody could ask about its id.
        problem = {name: value for name, value in refusal.problem.items() if name != "request_id"}
        text = [
            line
            for line in render_text(refusal).decode().splitlines()
            if not line.startswith("Request id:")
        ]
        return {
            "allowed": False,
            "status": refusal.status,
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


_ALLOWED = {
    Reason.OK: "allowed",
    Reason.OVERAGE: "allowed, as overage",
    Reason.CRITICAL: "allowed past a spent limit, because the route is critical",
    Reason.STORE_DOWN: "allowed without asking Redis, as the route's class or the plan says",
}


def in_words(told: dict[str, Any]) -> str:
    """The explanation for people."""
    lines = [told["request"], ""]
    who = told["identity"]
    if who is None:
        lines.append("account   not known")
    else:
        lines.append(f"account   {who['account']} (key {who['key']}, from: {who['known_from']})")
        lines.append(f"plan      {who['plan']}")
    if "route" in told:
        lines += _route_lines(told)
        lines += ["limits    " + ("" if told["limits"] else "none apply to this route")]
        lines += [f"  {_limit_line(row)}" for row in told["limits"]]
    if "state_unknown" in told:
        lines.append(f"state     unknown: {told['state_unknown']}")
    decision = told["decision"]
    if decision["allowed"]:
        lines.append(f"decision  {_ALLOWED[Reason(decision['reason'])]}")
        lines += [f"  crosses {notice}" for notice in decision["notices"]]
    else:
        lines += [f"decision  refused: {decision['status']} {decision['reason']}", ""]
        lines += [f"  {line}".rstrip() for line in decision["text"].splitlines()]
    return "\n".join(line.rstrip() for line in lines)


def _route_lines(told: dict[str, Any]) -> list[str]:
    features = told["features"]
    needed, missing = features["needed"], features["missing"]
    if missing:
        where = features["missing_in"]
        needs = f"needs {', '.join(needed)}; missing {', '.join(missing)}"
        needs += f" (in plan {where})" if where else " (in no plan)"
    else:
        needs = f"needs {', '.join(needed)}: included" if needed else "needs none"
    return [
        f"route     {told['route']['id']}: {told['route']['match']}",
        f"class     {told['class']}",
        f"features  {needs}",
    ]


def _limit_line(row: dict[str, Any]) -> str:
    whose = " per key" if row["per"] == "key" else ""
    what = f"{row['rate']}, burst" if row["kind"] == "rate" else "quota"
    text = f"{row['id']}{whose}: {what} {row['limit']:,}"
    if "hard_cap" in row:
        text += f" (hard cap {row['hard_cap']:,})"
    text += f"; this call costs {amount(row['cost'], row['unit'])}"
    if "used" not in row:
        return text
    text += f"; used {row['used']:,}, left {row['remaining']:,}"
    if row["resets_at"] is not None:
        text += f", {'full again' if row['kind'] == 'rate' else 'resets'} {row['resets_at']}"
    return text
