"""identify and entitle: the key of a request, and what the plan says of its route."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from sidecar.core.counting.teams import TeamEntitlements
from sidecar.core.identity import AmbiguousCredential, anonymous_key, credential, key_digest
from sidecar.core.kinds import QuotaLimit
from sidecar.core.model import Entitlement, Key, PlanBook, RequestClass
from sidecar.core.paths import BadTarget, Normaliser, normalise
from sidecar.core.plan_changes import after_change
from sidecar.core.reasons import Reason
from sidecar.core.routing import RouteTable
from sidecar.errors import StoreUnavailable
from sidecar.gate.admission import InboundRequest
from sidecar.ports import KeyDirectory

_anonymous = lru_cache(maxsize=4096)(anonymous_key)


class Entitler:
    """Finder of keys, routes and entitlements, in one plan book at a time.

    `now_us`: the clock by which accounts move to their next plan; all sidecars should share it.
    """

    def __init__(
        self,
        book: PlanBook,
        directory: KeyDirectory,
        now_us: Callable[[], int],
        *,
        paths: Normaliser = normalise,
        ignore_case: bool = False,
    ) -> None:
        self._now_us = now_us
        self._directory = directory
        self._paths = paths
        self._ignore_case = ignore_case
        self.reload(book)

    def reload(self, book: PlanBook) -> None:
        """Use this book from now on."""
        self.book = book
        self._routes = RouteTable(book.routes, self._paths, ignore_case=self._ignore_case)
        self._team_entitlements = TeamEntitlements()
        self._entitlements: dict[tuple[str, str], Entitlement] = {}  # of earlier requests

    def identify(self, request: InboundRequest) -> Key | Reason | bytes:
        """Return the key, or the reason without one, or the digest for `look_up`."""
        try:
            secret = credential(request.api_keys, request.authorizations)
        except AmbiguousCredential:
            return Reason.AMBIGUOUS
        if secret is None:
            if self.book.anonymous_plan is None:
                return Reason.NO_CREDENTIAL
            return _anonymous(request.address, self.book.anonymous_plan)
        return self.known(key_digest(secret))

    def known(self, digest: bytes) -> Key | Reason | bytes:
        """As `identify`, by the digest of an API key: a job is stored with this digest."""
        key = self.book.keys.get(digest) or self._directory.cached(digest)
        if key is None:
            return digest
        account = key.account
        return key if not account.suspended and account.next_plan is None else self._current(key)

    def _current(self, key: Key) -> Key | Reason:
        """The key of an account that may be suspended, or may have moved to its next plan."""
        change = key.account.next_plan
        if key.account.suspended:
            return Reason.SUSPENDED
        return key if change is None or self._now_us() < change.at_us else after_change(key)

    async def look_up(self, digest: bytes) -> Key | Reason:
        """Return the key with this digest from the directory, or the reason without one."""
        try:
            key = await self._directory.find(digest)
        except StoreUnavailable:
            return Reason.STORE_UNAVAILABLE
        if key is None:
            return Reason.UNKNOWN_KEY
        return self._current(key)

    def entitle(self, request: InboundRequest, key: Key) -> Entitlement | Reason:
        """Return what the key's plan says of the request's route, or why it says nothing."""
        try:
            route = self._routes.find(request.method, request.target)
        except BadTarget:
            return Reason.BAD_TARGET
        if route is None:
            return Reason.NO_ROUTE
        names = key.account.plan, route.id
        entitlement = self._entitlements.get(names)
        if entitlement is None:
            entitlement = self.book.entitlements.get(names)
            if entitlement is None:
                return Reason.NO_PLAN
            self._entitlements[names] = entitlement
        return self._team_entitlements.of(entitlement, key) if key.account.teams else entitlement


def unidentified_detail(reason: Reason) -> str | None:
    """Return a more exact sentence than the usual one for a reason of `look_up`, or None."""
    if reason is not Reason.STORE_UNAVAILABLE:
        return None
    return (
        "The API key of this request cannot be looked up right now, so it was not forwarded. "
        "Nothing was charged."
    )


def detail_of(reason: Reason, key: Key) -> str | None:
    """Return a more exact sentence than the usual one for a reason of `entitle`, or None."""
    if reason is not Reason.NO_PLAN:
        return None
    return (
        f"Account {key.account.id} is on plan {key.account.plan}, which this API does not offer. "
        "Ask the API's team to move it to another plan."
    )


def as_job(entitlement: Entitlement) -> Entitlement:
    """The entitlement of a deferred job.

    A job is deferrable, and its reservation stays open, so that it can be given back. The claims
    are a new object: what the store caches for other requests has no open reservation.
    """
    route = replace(entitlement.route, request_class=RequestClass.DEFERRABLE)
    claims = (*entitlement.claims,)
    late = any(isinstance(claim.limit, QuotaLimit) for claim in claims)
    return replace(
        entitlement, route=route, claims=claims, stays_open=bool(claims), late_overage=late
    )
