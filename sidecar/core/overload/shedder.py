"""Who stays out when the API itself is overloaded: deferrable calls first, then standard ones.

Critical calls are never shed: they have their own connections (`proxy/pool.py`), and are counted
so that the others leave room for them. Instants are seconds of one monotonic clock.
"""

from collections.abc import Collection
from math import inf
from typing import Final

from sidecar.core.model import RequestClass, Route
from sidecar.core.overload.adaptive_limit import AdaptiveLimit

DEFERRABLE_SHARE: Final = 0.7  # of the limit
CRITICAL_SHARE: Final = 0.1  # of the limit, kept free by standard calls
TALLY_S: Final = 1.0
MOST_WAIT_S: Final = 30
QUIET_S: Final = 10.0  # without a shed call ends an episode
_SAYS_OVERLOADED: Final = frozenset({502, 503, 504})


class Shedder:
    """Counts the calls in flight. With `fixed`, that many may be; with `found`, what the API is
    found to be able to, of calls that wait for an answer; with neither, any number."""

    def __init__(self, *, fixed: int | None = None, found: AdaptiveLimit | None = None) -> None:
        self.in_flight = 0
        self.waiting = 0  # of those, calls without the head of an answer
        self.shed: dict[RequestClass, int] = {RequestClass.STANDARD: 0, RequestClass.DEFERRABLE: 0}
        self.found = found
        self._fixed: float = inf if fixed is None else fixed
        self._entered = self._refused = 0  # since `_tallied_at`
        self._tallied_at = -inf
        self._pressure = 1.0  # calls that came for each that got in
        self._shed_at = -inf
        self._began = False  # and nobody has been told

    @property
    def limit(self) -> float:
        """Calls that may be in flight; infinite while there is no limit."""
        return self._fixed if self.found is None else self.found.value

    def is_full(self, request_class: RequestClass, now: float) -> bool:
        """Whether a call of this class would be shed now."""
        limit, found = self.limit, self.found
        if limit == inf or request_class is RequestClass.CRITICAL:
            return False
        if found is not None and found.is_over(now):
            return False
        if request_class is RequestClass.DEFERRABLE:
            room = limit * DEFERRABLE_SHARE
        else:
            room = limit - int(limit * CRITICAL_SHARE)
        taken = self.in_flight if found is None else self.waiting
        return taken + 1 > max(1, room)

    def enter(self, route: Route, now: float) -> "InFlightRequest | None":
        """A place for a call of this route; None, and counted, when it is shed."""
        found = self.found
        if (self._fixed if found is None else found.value) != inf:
            self._tally(now)
            if self.is_full(route.request_class, now):
                self._refuse(route.request_class, now)
                return None
        self._entered += 1
        self.in_flight += 1
        self.waiting += 1
        if found is not None and self.waiting > found.peak:
            found.peak = self.waiting
        return InFlightRequest(self, route.id, now)

    def wait_s(self, request_class: RequestClass) -> int:
        """When a shed call is worth another try, in seconds: the more calls come for each that
        gets in, the later; deferrable ones twice as late. Between 1 and 30."""
        wait = self._pressure * (2 if request_class is RequestClass.DEFERRABLE else 1)
        return max(1, min(MOST_WAIT_S, int(wait)))

    def begins(self) -> bool:
        """Whether calls are shed again after a while without it; told once each time."""
        began, self._began = self._began, False
        return began

    def keep(self, route_ids: Collection[str]) -> None:
        """These are the routes now; what is known of others is forgotten."""
        if self.found is not None:
            self.found.keep(route_ids)

    def _refuse(self, request_class: RequestClass, now: float) -> None:
        self._refused += 1
        self.shed[request_class] += 1
        if now - self._shed_at >= QUIET_S:
            self._began = True
        self._shed_at = now
        if self.found is not None:
            self.found.shed(now)

    def _tally(self, now: float) -> None:
        if now - self._tallied_at >= TALLY_S:
            self._pressure = (self._entered + self._refused) / (self._entered or 1)
            self._entered = self._refused = 0
            self._tallied_at = now


class InFlightRequest:
    """One call in flight. Whoever got it tells when it was asked, answered and over.

    `asked_at`: since when the API has all that it needs to answer; None while it has not.
    """

    __slots__ = ("_route_id", "_shedder", "_waits", "asked_at")

    def __init__(self, shedder: Shedder, route_id: str, now: float) -> None:
        self._shedder = shedder
        self._route_id = route_id
        self._waits: bool | None = True  # for an answer; None: it is over
        self.asked_at: float | None = now

    def answered(self, status: int, now: float) -> None:
        """The head of the answer is there. How long the rest takes does not matter."""
        if not self._waits:
            return
        self._waits = False
        shedder = self._shedder
        shedder.waiting -= 1
        found, asked_at = shedder.found, self.asked_at
        if found is None:
            return
        if status in _SAYS_OVERLOADED:
            found.dropped(shedder.waiting, now)
        elif asked_at is not None:
            found.answered(self._route_id, now - asked_at, shedder.waiting, now)

    def leave(self, now: float, *, dropped: bool = False, given_up: bool = False) -> None:
        """The call is over, whatever way. Idempotent.

        `dropped`: the API gave no usable answer; `given_up`: the client did not wait for one.
        """
        waited, self._waits = self._waits, None
        if waited is None:
            return
        shedder = self._shedder
        shedder.in_flight -= 1
        if not waited:
            return
        shedder.waiting -= 1
        found, asked_at = shedder.found, self.asked_at
        if found is None:
            return
        if dropped:
            found.dropped(shedder.waiting, now)
        elif given_up and asked_at is not None:
            found.given_up(self._route_id, now - asked_at, shedder.waiting, now)
