"""The one path. Every door (our proxy, a gateway's plugin) calls `admit` before and `settle` after.

What must live here: the order identify → entitle → reserve → decide, and settle → record.
What this file must not know: HTTP bytes, Redis, files, YAML.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Final, Protocol

from sidecar.core.answers import Answer, Hold
from sidecar.core.claims import at_no_cost, estimated
from sidecar.core.decision import SHED, crossings_of, decide, without_limits, without_store
from sidecar.core.identity import (
    ANONYMOUS,
    AmbiguousCredential,
    anonymous_key,
    credential,
    fingerprint,
)
from sidecar.core.model import (
    MICRO,
    CallClass,
    Crossing,
    Decision,
    Entitlement,
    Key,
    PlanBook,
    QuotaLimit,
    Reason,
    Route,
    TeamShare,
)
from sidecar.core.paths import BadTarget, Normaliser, normalise
from sidecar.core.reading import Reading
from sidecar.core.refusals import (
    Refusal,
    feature_refusal,
    limit_refusal,
    simple_refusal,
    waited,
)
from sidecar.core.routing import RouteTable
from sidecar.core.settlement import (
    Outcome,
    OutcomeReason,
    notice_event,
    real_claims,
    refusal_event,
    usage_event,
)
from sidecar.core.shed_refusal import shed_refusal
from sidecar.core.shedding import Place, Shedder
from sidecar.core.teams import TeamEntitlements, use_of
from sidecar.errors import StoreUnavailable
from sidecar.logs import logger
from sidecar.metrics import INTERNAL_ERROR, Metrics
from sidecar.ports import DRAINED, Held, KeyDirectory, LimitStore, Spool, WaitingRoom

log = logger("gate")

LEASE_US: Final = 30 * MICRO  # after which a sidecar that did not renew it counts as dead
NOBODY: Final = "-"  # label of what is not known yet: a route, plan or account
_UNANSWERED: Final = frozenset(
    {
        OutcomeReason.UPSTREAM_REFUSED,
        OutcomeReason.UPSTREAM_TIMEOUT,
        OutcomeReason.UPSTREAM_BROKEN,
    }
)


class Clock(Protocol):
    """Wall time and identifiers, as `sidecar.clock.Clock` gives them."""

    def now_ns(self) -> int: ...
    def timestamp(self, now_ns: int) -> str: ...
    def request_id(self, now_ns: int) -> str: ...
    def jitter(self) -> int: ...


_anonymous = lru_cache(maxsize=4096)(anonymous_key)


@dataclass(frozen=True, slots=True)
class Seen:
    """One decision, for whoever watches: the demo's table."""

    account: str
    route: str
    call_class: str
    decision: str
    remaining: str


class Call(Protocol):
    """What a door knows of a request before its body is read."""

    method: str
    target: bytes  # as it stands in the request line

    @property
    def api_keys(self) -> Sequence[bytes]: ...  # values of X-Api-Key, as received
    @property
    def authorizations(self) -> Sequence[bytes]: ...  # values of Authorization

    address: str  # of the client

    waiting: bool  # it is held: whoever leaves now gives up its place

    @property
    def size(self) -> int:
        """Bytes of it that are kept while it waits."""
        ...

    @property
    def patience_us(self) -> int | None:
        """For how long the client wants to wait at most; None when it does not say."""
        ...


ReadAhead = Callable[[Entitlement], Awaitable[Reading]]


@dataclass(slots=True)
class Admission:
    """A call that may go on. It keeps the entitlement that it was decided under: a reload in
    mid-flight changes no price and no answer."""

    request_id: str
    time: str
    call: Call
    key: Key
    entitlement: Entitlement
    plan_version: str
    decision: Decision
    place: Place  # in flight, until it is settled
    held: bool = False  # the reservation is open until it is settled
    queued_us: int = 0  # for which it was held before
    job: str = ""  # the id of the deferred job that it runs for


@dataclass(slots=True)
class Refused:
    """A call that goes no further, and the answer it gets. Whose it is, as far as that is known."""

    request_id: str
    refusal: Refusal
    key: Key | None = None
    entitlement: Entitlement | None = None
    decision: Decision | None = None  # of limits, when they were asked


@dataclass(slots=True)
class _Asking:
    """A call that asks whether it may go on. `place`: in flight, once it may."""

    book: PlanBook
    key: Key
    found: Entitlement
    request_id: str
    for_job: bool = False
    place: Place | None = None


@dataclass(slots=True)
class Deferred(Refused):
    """A call that limits refuse now and that its client wants to run later, if it can be queued.
    Whoever asked calls `queued` or `refuse` with it. `refusal`: its answer if it cannot."""

    key: Key
    entitlement: Entitlement
    decision: Decision


Defers = Callable[[Any, Entitlement, Decision], bool]  # the door's own kind of Call


class Gate:
    """Admits calls and settles them. One per process; not thread-safe, as the loop is not."""

    def __init__(
        self,
        book: PlanBook,
        *,
        store: LimitStore,
        directory: KeyDirectory,
        spool: Spool,
        metrics: Metrics,
        clock: Clock,
        source: str,
        room: WaitingRoom | None = None,
        shedder: Shedder | None = None,
        record_refusals: bool = False,
        paths: Normaliser = normalise,
        ignore_case: bool = False,
        on_decision: Callable[[Seen], None] | None = None,
    ) -> None:
        self._store = store
        self._directory = directory
        self._spool = spool
        self._metrics = metrics
        self._clock = clock
        self._source = source
        self._room = room
        self._shedder = shedder or Shedder()
        self._record_refusals = record_refusals
        self._paths = paths
        self._ignore_case = ignore_case
        self._on_decision = on_decision
        self.swap(book)

    def swap(self, book: PlanBook) -> None:
        """Decide by this book from the next call on; calls in flight keep theirs."""
        self._book = book
        self._of_team = TeamEntitlements()
        self._routes = RouteTable(book.routes, self._paths, ignore_case=self._ignore_case)
        self._shedder.keep({route.id for route in book.routes})

    @property
    def book(self) -> PlanBook:
        """The live plan book."""
        return self._book

    # admit: identify → entitle → reserve → decide

    async def admit(
        self,
        call: Call,
        read: ReadAhead,
        defers: Defers | None = None,
        job_of: bytes | None = None,
    ) -> Admission | Refused:
        """Decide whether a call may go on. Charges its claims if so, nothing if not.

        `read` looks into the request's body for what the call costs; it is asked on routes that
        want it, and what it raises passes through: nothing was charged by then. `defers`: whether
        a call that limits refuse may be deferred. `job_of`: the call is a deferred job of the key
        with this digest; it waits for Redis, and can be given back (`abandon`).
        """
        book = self._book
        now_ns = self._clock.now_ns()
        request_id = self._clock.request_id(now_ns)
        key = self._identify(call, book) if job_of is None else self._known(job_of, book)
        if isinstance(key, bytes):
            key = await self._look_up(key)
        if isinstance(key, Reason):
            return self._refuse(request_id, simple_refusal(key, request_id))
        found = self._entitle(call, book, key)
        if isinstance(found, Reason):
            refusal = simple_refusal(found, request_id, self._why(found, key))
            return self._refuse(request_id, refusal, key)
        if found.missing:
            refusal = feature_refusal(book, found, key.account, request_id)
            return self._refuse(request_id, refusal, key, found)
        if not self._spool.accepting and found.route.call_class is not CallClass.CRITICAL:
            refusal = simple_refusal(Reason.SPOOL_FULL, request_id)
            return self._refuse(request_id, refusal, key, found)
        if found.estimates and not self._shedder.is_full(
            found.route.call_class, time.perf_counter()
        ):
            found = estimated(found, await read(found))
        if job_of is not None:
            found = _as_job(found)
        asking = _Asking(book, key, found, request_id, for_job=job_of is not None)
        try:
            held = await self._reserve(call, asking)
        except StoreUnavailable:
            refusal = simple_refusal(Reason.STORE_UNAVAILABLE, request_id)
            return self._refuse(request_id, refusal, key, found)
        decision = held.decision
        if asking.place is None:
            refusal = waited(self._explain(asking, held), held.waited_us)
            if defers is not None and decision.violated and defers(call, found, decision):
                return Deferred(request_id, refusal, key, found, decision)
            return self._refuse(request_id, refusal, key, found, decision)
        admission = Admission(
            request_id,
            self._clock.timestamp(now_ns),
            call,
            key,
            found,
            book.version,
            decision,
            asking.place,
            found.held and decision.now_us > 0,
            held.waited_us,
        )
        if decision.crossings or decision.shadowed or self._on_decision is not None:
            try:
                self._tell_of(admission)
            except BaseException:
                asking.place.leave(time.perf_counter())
                raise
        return admission

    def _tell_of(self, admission: Admission) -> None:
        """What an admission makes known, beside its event."""
        decision, found = admission.decision, admission.entitlement
        if decision.crossings:
            self._notice(admission, decision.crossings)
        for limit in decision.shadowed:
            self._metrics.shadow(found.plan.id, limit)
        if self._on_decision is not None:
            self._tell(admission.key, found, "allow" if decision.reason is Reason.OK else
                       f"allow ({decision.reason})", decision)  # fmt: skip

    async def _reserve(self, call: Call, asking: "_Asking") -> Held:
        """A place in flight and everything claimed; or why not, maybe after a wait for it."""
        room, key, claims = self._room, asking.key, asking.found.claims
        if asking.for_job:  # it has all the time, and a queue of its own
            return Held((await self._try(asking))[0], 0, "")
        behind = room.ahead(key, claims) if room is not None and room.waiting else None
        decision = behind or (await self._try(asking))[0]
        if decision.wait is None or room is None:
            return Held(decision, 0, "")
        call.waiting = True
        held = await room.hold(
            key, claims, decision, partial(self._try, asking),
            size=call.size, patience_us=call.patience_us,
        )  # fmt: skip
        call.waiting = False
        return held

    async def _try(self, asking: "_Asking") -> tuple[Decision, Answer | None]:
        """Reserve and decide, with a place in flight that is kept if the call may go on. The answer
        is None when the store was not asked, or could not tell and need not. Raises
        StoreUnavailable when it has to."""
        now = time.perf_counter()
        place = self._shedder.enter(asking.found.route, now)
        if place is None:
            return SHED, None
        try:
            told = await self._ask(asking, now)
        except BaseException:
            place.leave(time.perf_counter())
            raise
        if told[0].allowed:
            asking.place = place
        else:
            place.leave(time.perf_counter())
        return told

    async def _ask(self, asking: "_Asking", asked: float) -> tuple[Decision, Answer | None]:
        found, key, for_job = asking.found, asking.key, asking.for_job
        if not found.claims:
            return without_limits(found), None
        hold = None
        if found.held:
            orphans = "release" if for_job else found.plan.orphans  # a job runs again
            hold = Hold(asking.request_id, LEASE_US, orphans)
        try:
            answer = await self._store.reserve(
                key.account,
                key.id,
                found.claims,
                hold=hold,
                once=bool(found.estimates) or for_job,
                when_down="deny" if for_job else found.when_down,
            )
            if not answer.alone:
                self._metrics.store.observe(time.perf_counter() - asked)
            return decide(found, answer), answer
        except StoreUnavailable:
            if for_job or found.when_down in ("local", "deny"):
                raise
            return without_store(found), None

    def _explain(self, asking: "_Asking", held: Held) -> Refusal:
        """Why the call may not go on."""
        decision, request_id, jitter = held.decision, asking.request_id, self._clock.jitter()
        if held.left == DRAINED:
            return simple_refusal(Reason.DRAINING, request_id, jitter=jitter)
        if decision.reason is Reason.SHED:
            return self._shed(asking, jitter)
        return limit_refusal(
            asking.book, asking.found, asking.key.account, decision, request_id, jitter
        )

    def _shed(self, asking: "_Asking", jitter: int) -> Refusal:
        shedder = self._shedder
        if shedder.begins():
            log.warning(
                "the API is overloaded: calls are shed",
                limit=int(shedder.limit),
                in_flight=shedder.in_flight,
            )
        wait_s = shedder.wait_s(asking.found.route.call_class)
        return shed_refusal(asking.found, asking.request_id, wait_s, jitter)

    def _identify(self, call: Call, book: PlanBook) -> Key | Reason | bytes:
        """The key; or why there is none; or the digest that the directory has to be asked for."""
        try:
            secret = credential(call.api_keys, call.authorizations)
        except AmbiguousCredential:
            return Reason.AMBIGUOUS
        if secret is None:
            if book.anonymous_plan is None:
                return Reason.NO_CREDENTIAL
            return _anonymous(call.address, book.anonymous_plan)
        digest = fingerprint(secret)
        key = book.keys.get(digest) or self._directory.cached(digest)
        if key is None:
            return digest
        return Reason.SUSPENDED if key.account.suspended else key

    def _known(self, digest: bytes, book: PlanBook) -> Key | Reason | bytes:
        """The same for a job, whose digest is kept in place of a credential."""
        key = book.keys.get(digest) or self._directory.cached(digest)
        if key is None:
            return digest
        return Reason.SUSPENDED if key.account.suspended else key

    async def _look_up(self, digest: bytes) -> Key | Reason:
        try:
            key = await self._directory.find(digest)
        except StoreUnavailable:
            return Reason.STORE_UNAVAILABLE
        if key is None:
            return Reason.UNKNOWN_KEY
        return Reason.SUSPENDED if key.account.suspended else key

    def _entitle(self, call: Call, book: PlanBook, key: Key) -> Entitlement | Reason:
        try:
            route = self._match(call)
        except BadTarget:
            return Reason.BAD_TARGET
        if route is None:
            return Reason.NO_ROUTE
        entitlement = book.entitlements.get((key.account.plan, route.id))
        if entitlement is None:
            return Reason.NO_PLAN
        return self._of_team.of(entitlement, key) if key.account.teams else entitlement

    def _match(self, call: Call) -> Route | None:
        return self._routes.find(call.method, call.target)

    @staticmethod
    def _why(reason: Reason, key: Key) -> str | None:
        if reason is Reason.NO_PLAN:
            return (
                f"Account {key.account.id} is on plan {key.account.plan}, which is not offered "
                "any more. Ask the API's team to move it to another plan."
            )
        return None

    def _refuse(
        self,
        request_id: str,
        refusal: Refusal,
        key: Key | None = None,
        entitlement: Entitlement | None = None,
        decision: Decision | None = None,
    ) -> Refused:
        route = entitlement.route.id if entitlement else NOBODY
        call_class = entitlement.route.call_class if entitlement else NOBODY
        plan = entitlement.plan.id if entitlement else NOBODY
        self._metrics.count(route, call_class, plan, refusal.reason)
        if self._record_refusals and key is not None and self._spool.accepting:
            self._spool.append(
                refusal_event(
                    id=request_id,
                    source=self._source,
                    time=self._clock.timestamp(self._clock.now_ns()),
                    key=key,
                    entitlement=entitlement,
                    plan_version=self._book.version,
                    status=refusal.status,
                    reason=refusal.reason,
                )
            )
        if self._on_decision is not None:
            self._tell(key, entitlement, f"{refusal.status} {refusal.reason}", decision)
        return Refused(request_id, refusal, key, entitlement, decision)

    # what is not a call to the API

    async def identify(self, call: Call) -> Key | Refused:
        """Whose call it is that asks about its own account: by its key, and never anonymous."""
        request_id = self._clock.request_id(self._clock.now_ns())
        key = self._identify(call, self._book)
        if isinstance(key, bytes):
            key = await self._look_up(key)
        if isinstance(key, Key) and key.id == ANONYMOUS:
            key = Reason.NO_CREDENTIAL
        if isinstance(key, Reason):
            return self._refuse(request_id, simple_refusal(key, request_id))
        return key

    def entitlement_of(self, call: Call, key: Key) -> Entitlement | None:
        """What the key's plan says of a call; None: it would be refused for good."""
        found = self._entitle(call, self._book, key)
        return None if isinstance(found, Reason) or found.missing else found

    async def outlook(self, key: Key, found: Entitlement) -> Answer | None:
        """How the limits stand that such a call counts against; None: it counts against none.
        Raises StoreUnavailable."""
        if not found.claims:
            return None
        return await self._store.peek(key.account, key.id, found.claims)

    def queued(self, deferred: Deferred) -> None:
        """The call runs later: it is counted as deferred now, and as a call when it runs."""
        found = deferred.entitlement
        route = found.route
        self._metrics.count(route.id, route.call_class, found.plan.id, Reason.DEFERRED)
        if self._on_decision is not None:
            self._tell(deferred.key, found, "202 deferred", deferred.decision)

    def refuse(self, deferred: Deferred, refusal: Refusal) -> Refused:
        """The call is not deferred after all."""
        one = deferred
        return self._refuse(one.request_id, refusal, one.key, one.entitlement, one.decision)

    def abandon(self, admission: Admission) -> None:
        """Give an admitted job back of which nothing was sent: it costs nothing and is no event."""
        admission.place.leave(time.perf_counter())
        if admission.held:
            key, found = admission.key, admission.entitlement
            claims = at_no_cost(found.claims)
            self._store.settle(key.account, key.id, claims, admission.request_id)

    async def has_quota_left(self, admission: Admission) -> bool:
        """Whether a call that goes on and on may do so, as its plan wants it. True when that
        cannot be told: what runs is not ended for a store that is gone."""
        found, key = admission.entitlement, admission.key
        quotas = tuple(
            claim
            for claim in found.claims
            if isinstance(claim.limit, QuotaLimit) and not claim.forced
        )
        if not found.plan.closes_tunnels or not quotas:
            return True
        try:
            answer = await self._store.peek(key.account, key.id, quotas)
        except StoreUnavailable:
            return True
        return all(
            use_of(quotas, answer, at).left > 0
            if isinstance(claim.limit, TeamShare)
            else used < claim.limit.cap
            for at, (used, claim) in enumerate(zip(answer.used, quotas, strict=True))
            if isinstance(claim.limit, QuotaLimit)
        )

    # settle → record

    def settle(self, admission: Admission, outcome: Outcome, *, broke: bool = False) -> str:
        """Close an admitted call: one event, whatever happened. The caller does it exactly once.

        `broke`: it ended for a fault of our own. Returns the outcome that it is counted under.
        """
        reason = outcome.reason
        admission.place.leave(
            time.perf_counter(),
            dropped=reason in _UNANSWERED,
            given_up=reason is OutcomeReason.CLIENT_GONE,
        )
        entitlement = admission.entitlement
        route = entitlement.route
        label: str = reason if reason != "ok" else admission.decision.reason
        if broke:
            label = INTERNAL_ERROR
        self._metrics.count(route.id, route.call_class, entitlement.plan.id, label)
        if admission.held:
            self._settle(admission, outcome)
        event = usage_event(
            id=admission.request_id,
            source=self._source,
            time=admission.time,
            key=admission.key,
            entitlement=entitlement,
            plan_version=admission.plan_version,
            overage=admission.decision.overage,
            method=admission.call.method,
            outcome=outcome,
        )
        if admission.job:
            event["data"]["job"] = admission.job
        self._spool.append(event)
        return label

    def _settle(self, admission: Admission, outcome: Outcome) -> None:
        claims = real_claims(admission.entitlement, outcome)

        def told(answer: Answer) -> None:
            if self._room is not None and self._room.waiting:
                self._room.heard(admission.key, claims, answer)
            crossings = crossings_of(claims, answer)
            if crossings:
                self._notice(admission, crossings)

        key = admission.key
        self._store.settle(key.account, key.id, claims, admission.request_id, told)

    def _notice(self, admission: Admission, crossings: Sequence[Crossing]) -> None:
        for crossing in crossings:
            self._spool.append(
                notice_event(
                    source=self._source,
                    time=admission.time,
                    key=admission.key,
                    entitlement=admission.entitlement,
                    plan_version=admission.plan_version,
                    crossing=crossing,
                )
            )
            log.info(
                "notice",
                account=admission.key.account.id,
                limit=crossing.limit.id,
                percent=crossing.percent,
            )

    def _tell(
        self,
        key: Key | None,
        entitlement: Entitlement | None,
        text: str,
        decision: Decision | None,
    ) -> None:
        tightest = decision.tightest if decision else None
        remaining = f"{tightest.remaining} ({tightest.claim.limit.id})" if tightest else NOBODY
        if decision and decision.violated:
            remaining = f"0 ({decision.violated[0].claim.limit.id})"
        assert self._on_decision is not None  # noqa: S101 - callers checked
        self._on_decision(
            Seen(
                key.account.id if key else NOBODY,
                entitlement.route.id if entitlement else NOBODY,
                entitlement.route.call_class if entitlement else NOBODY,
                text,
                remaining,
            )
        )


def _as_job(found: Entitlement) -> Entitlement:
    """A job gives way to every other call, and is held, so that it can be given back. Its claims
    are its own: what the store remembers of others' has no hold."""
    route = replace(found.route, call_class=CallClass.DEFERRABLE)
    return replace(found, route=route, claims=(*found.claims,), held=bool(found.claims))
