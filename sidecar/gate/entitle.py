"""identify and entitle: whose call it is, and what their plan says of it."""

from collections.abc import Callable
from functools import lru_cache

from sidecar.core.identity import AmbiguousCredential, anonymous_key, credential, fingerprint
from sidecar.core.model import Entitlement, Key, PlanBook
from sidecar.core.paths import BadTarget, Normaliser
from sidecar.core.plan_changes import moved
from sidecar.core.reasons import Reason
from sidecar.core.routing import RouteTable
from sidecar.core.teams import TeamEntitlements
from sidecar.errors import StoreUnavailable
from sidecar.gate.calls import InboundRequest
from sidecar.ports import KeyDirectory

_anonymous = lru_cache(maxsize=4096)(anonymous_key)


class Entitler:
    """Knows keys and routes, of one plan book at a time."""

    def __init__(
        self,
        book: PlanBook,
        directory: KeyDirectory,
        paths: Normaliser,
        now_us: Callable[[], int],
        *,
        ignore_case: bool,
    ) -> None:
        self._now_us = now_us
        self._directory = directory
        self._paths = paths
        self._ignore_case = ignore_case
        self.swap(book)

    def swap(self, book: PlanBook) -> None:
        """Know this book from now on."""
        self.book = book
        self.routes = RouteTable(book.routes, self._paths, ignore_case=self._ignore_case)
        self._of_team = TeamEntitlements()

    def identify(self, call: InboundRequest) -> Key | Reason | bytes:
        """The key; or why there is none; or the digest that has to be looked up."""
        try:
            secret = credential(call.api_keys, call.authorizations)
        except AmbiguousCredential:
            return Reason.AMBIGUOUS
        if secret is None:
            if self.book.anonymous_plan is None:
                return Reason.NO_CREDENTIAL
            return _anonymous(call.address, self.book.anonymous_plan)
        return self.known(fingerprint(secret))

    def known(self, digest: bytes) -> Key | Reason | bytes:
        """The same by the digest of a credential, which is what is kept with a job."""
        key = self.book.keys.get(digest) or self._directory.cached(digest)
        if key is None:
            return digest
        account = key.account
        return key if not account.suspended and account.then is None else self._today(key)

    def _today(self, key: Key) -> Key | Reason:
        """The key of an account that may be suspended, or may have moved to another plan."""
        then = key.account.then
        if key.account.suspended:
            return Reason.SUSPENDED
        return key if then is None or self._now_us() < then.at_us else moved(key)

    async def look_up(self, digest: bytes) -> Key | Reason:
        """The same, of who is not in the plan file and has not called for a while."""
        try:
            key = await self._directory.find(digest)
        except StoreUnavailable:
            return Reason.STORE_UNAVAILABLE
        if key is None:
            return Reason.UNKNOWN_KEY
        return self._today(key)

    def entitle(self, call: InboundRequest, key: Key) -> Entitlement | Reason:
        """What the key's plan says of the call's route; or why it says nothing."""
        try:
            route = self.routes.find(call.method, call.target)
        except BadTarget:
            return Reason.BAD_TARGET
        if route is None:
            return Reason.NO_ROUTE
        entitlement = self.book.entitlements.get((key.account.plan, route.id))
        if entitlement is None:
            return Reason.NO_PLAN
        return self._of_team.of(entitlement, key) if key.account.teams else entitlement


def why(reason: Reason, key: Key) -> str | None:
    """What there is to say of a reason of `entitle` besides; None: nothing."""
    if reason is not Reason.NO_PLAN:
        return None
    return (
        f"Account {key.account.id} is on plan {key.account.plan}, which is not offered any more. "
        "Ask the API's team to move it to another plan."
    )
