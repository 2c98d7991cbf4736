"""Sheds requests when the upstream is overloaded: deferrable ones first, then standard ones.

Critical requests are never shed: they have their own connections (`proxy/upstream/pool.py`). They
count as in flight, so the others leave capacity for them. Instants are seconds of one monotonic
clock.

Within a fixed limit, the law of shares holds, as for connections (`proxy/upstream/places.py`): a
request of an account enters only while the account holds less than `percent` of what other
accounts leave. Critical requests always enter. Those beyond the share of their account do not count
towards the limit, so they take nothing from the others.
"""

from collections.abc import Collection
from math import inf
from typing import Final

from sidecar.core.model import RequestClass, Route
from sidecar.core.overload.adaptive_limit import AdaptiveLimit

DEFERRABLE_SHARE: Final = 0.7  # of the limit
CRITICAL_SHARE: Final = 0.1  # of the limit, which standard requests leave free
TALLY_S: Final = 1.0  # span over which the pressure is measured
MAX_RETRY_AFTER_S: Final = 30
QUIET_S: Final = 10.0  # without a shed request, until an episode ends
_CRITICAL: Final = RequestClass.CRITICAL  # reading it from the class takes twenty times as long
_OVERLOAD_STATUSES: Final = frozenset({502, 503, 504})


class Shedder:
    """Counts requests in flight, and sheds those beyond the limit.

    With `fixed`, the limit is that many in flight. With `adaptive`, it bounds requests that wait
    for a response. With neither, the number is not limited. `percent`: the share of one account
    of a fixed limit.
    """

    def __init__(
        self,
        *,
        fixed: int | None = None,
        adaptive: AdaptiveLimit | None = None,
        percent: int = 100,
    ) -> None:
        self.in_flight = 0
        self.waiting = 0  # in flight, without the head of a response
        self.shed: dict[RequestClass, int] = {RequestClass.STANDARD: 0, RequestClass.DEFERRABLE: 0}
        self.adaptive = adaptive
        self._fixed: float = inf if fixed is None else fixed
        self.is_fixed = fixed is not None
        self._percent = percent
        self._used = 0  # requests in flight that count towards a fixed limit
        self._critical: dict[str, int] = {}  # requests in flight by account, with a fixed limit
        self._others: dict[str, int] = {}
        self._entered = self._refused = 0  # since `_tallied_at`
        self._tallied_at = -inf
        self._pressure = 1.0  # requests per request that enters
        self._shed_at = -inf
        self._started = False  # an episode, and `pop_started` has not returned it

    @property
    def limit(self) -> float:
        """Maximum number of requests; `inf` without a limit."""
        return self._fixed if self.adaptive is None else self.adaptive.value

    def is_full(self, request_class: RequestClass, now: float, account: str = "") -> bool:
        """Whether a request of this class and account would be shed now."""
        limit, adaptive = self.limit, self.adaptive
        if limit == inf or request_class is RequestClass.CRITICAL:
            return False
        if adaptive is not None and adaptive.lift_if_quiet(now):
            return False
        if request_class is RequestClass.DEFERRABLE:
            capacity = limit * DEFERRABLE_SHARE
        else:
            capacity = limit - int(limit * CRITICAL_SHARE)
        if adaptive is not None:
            return self.waiting + 1 > max(1, capacity)
        free = max(1, int(capacity)) - self._used
        if free < 1:
            return True
        own = self._others[account] if account in self._others else 0  # noqa: SIM401 - no call
        return own * (100 - self._percent) >= free * self._percent

    def enter(self, route: Route, now: float, account: str = "") -> "InFlightRequest | None":
        """Count a request of this route as in flight; None if it is shed."""
        adaptive, counts = self.adaptive, True
        critical = route.request_class is _CRITICAL
        limit = self._fixed if adaptive is None else adaptive.value
        if limit != inf:
            self._tally(now)
            if self.is_full(route.request_class, now, account):
                self._refuse(route.request_class, now)
                return None
            if critical and account in self._critical:
                free = max(1, limit - self._used)
                counts = self._critical[account] * (100 - self._percent) < free * self._percent
        self._entered += 1
        self.in_flight += 1
        self.waiting += 1
        if self.is_fixed:
            held = self._critical if critical else self._others
            held[account] = held[account] + 1 if account in held else 1
            self._used += counts
        if adaptive is not None and self.waiting > adaptive.peak:
            adaptive.peak = self.waiting
        return InFlightRequest(self, route.id, now, account, critical, counts)

    def free(self, account: str, *, critical: bool, counts: bool) -> None:
        """Free the place of a request, which no longer counts towards the limit."""
        held = self._critical if critical else self._others
        own = held[account] - 1
        if own:
            held[account] = own
        else:
            del held[account]
        self._used -= counts

    def retry_after_s(self, request_class: RequestClass) -> int:
        """Return the Retry-After of a shed request, from 1 to 30 s.

        It grows with the requests per request that enters, and is doubled for deferrable ones.
        """
        span = self._pressure * (2 if request_class is RequestClass.DEFERRABLE else 1)
        return max(1, min(MAX_RETRY_AFTER_S, int(span)))

    def pop_started(self) -> bool:
        """Whether an episode of shedding has started; true once per episode."""
        started, self._started = self._started, False
        return started

    def retain_routes(self, route_ids: Collection[str]) -> None:
        """Forget all other routes."""
        if self.adaptive is not None:
            self.adaptive.retain_routes(route_ids)

    def _refuse(self, request_class: RequestClass, now: float) -> None:
        self._refused += 1
        self.shed[request_class] += 1
        if now - self._shed_at >= QUIET_S:
            self._started = True
        self._shed_at = now
        if self.adaptive is not None:
            self.adaptive.on_shed(now)

    def _tally(self, now: float) -> None:
        if now - self._tallied_at >= TALLY_S:
            self._pressure = (self._entered + self._refused) / (self._entered or 1)
            self._entered = self._refused = 0
            self._tallied_at = now


class InFlightRequest:
    """One request in flight. Its owner must report the response and the end.

    `sent_at` is when the upstream had all that it needs to respond; None before that. `waits`:
    whether the head of the response is missing; None after the end.
    """

    __slots__ = (
        "_account", "_counts", "_critical", "_route_id", "_shedder", "sent_at", "waits",
    )  # fmt: skip

    def __init__(
        self,
        shedder: Shedder,
        route_id: str,
        now: float,
        account: str,
        critical: bool,
        counts: bool,
    ) -> None:
        self._shedder = shedder
        self._route_id = route_id
        self._account = account
        self._critical = critical
        self._counts = counts  # towards the limit
        self.waits: bool | None = True
        self.sent_at: float | None = now

    def on_response(self, status: int, now: float) -> None:
        """Count the head of the response. The time that the body takes does not matter."""
        if not self.waits:
            return
        self.waits = False
        shedder = self._shedder
        shedder.waiting -= 1
        adaptive, sent_at = shedder.adaptive, self.sent_at
        if adaptive is None:
            return
        if status in _OVERLOAD_STATUSES:
            adaptive.on_drop(shedder.waiting, now)
        elif sent_at is not None:
            adaptive.on_response(self._route_id, now - sent_at, shedder.waiting, now)

    def leave(self, now: float, *, dropped: bool = False, client_gone: bool = False) -> None:
        """End the request. Idempotent.

        `now` matters only if it `waits`. `dropped`: the upstream gave no usable response.
        `client_gone`: the client left before it.
        """
        waited, self.waits = self.waits, None
        if waited is None:
            return
        shedder = self._shedder
        shedder.in_flight -= 1
        if shedder.is_fixed:
            shedder.free(self._account, critical=self._critical, counts=self._counts)
        if not waited:
            return
        shedder.waiting -= 1
        adaptive, sent_at = shedder.adaptive, self.sent_at
        if adaptive is None:
            return
        if dropped:
            adaptive.on_drop(shedder.waiting, now)
        elif client_gone and sent_at is not None:
            adaptive.on_client_gone(self._route_id, now - sent_at, shedder.waiting, now)
