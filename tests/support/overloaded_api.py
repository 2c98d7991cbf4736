"""A simulated upstream with a queue, behind a shedder and a bounded number of connections."""

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from sidecar.core.model import RequestClass, Route
from sidecar.core.overload.adaptive_limit import AdaptiveLimit
from sidecar.core.overload.shedder import InFlightRequest, Shedder

CONNECTIONS, CRITICAL_CONNECTIONS = 256, 16


def a_route(name: str, request_class: RequestClass) -> Route:
    return Route(name, "/**", None, "/**", request_class, frozenset(), ())


class Kind(NamedTuple):
    """A kind of requests: its weight among all, and the mean work of one in seconds."""

    route: Route
    weight: float
    seconds: float


@dataclass
class Sent:
    kind: Kind
    arrived: float
    in_flight: InFlightRequest
    answered: float | None = None

    @property
    def seconds(self) -> float:
        assert self.answered is not None
        return self.answered - self.arrived


@dataclass
class World:
    """A simulation: each of `servers` works on one request, others queue. It records all events."""

    kinds: list[Kind]
    servers: int = 20
    minimum: int = 20
    seed: int = 1
    slower: Callable[[float], float] = lambda _now: 1.0  # factor on all work, by time
    now: float = 0.0
    requests: list[Sent] = field(default_factory=list)
    shed: list[tuple[float, RequestClass]] = field(default_factory=list)
    limits: list[tuple[float, float]] = field(default_factory=list)  # every half second

    def __post_init__(self) -> None:
        self.shedder = Shedder(adaptive=AdaptiveLimit(self.minimum))
        self._random = random.Random(self.seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._ids = count()
        self._unsent: tuple[deque[Sent], deque[Sent]] = (deque(), deque())  # critical, others
        self._sent = 0
        self._queue: deque[Sent] = deque()
        self._busy = 0
        self._rate = 0.0
        self._at(0.0, self._sample)

    @property
    def capacity(self) -> float:
        """Requests of this mix per second that all servers can answer at normal speed."""
        weights = sum(kind.weight for kind in self.kinds)
        return self.servers * weights / sum(kind.weight * kind.seconds for kind in self.kinds)

    def run(self, seconds: float, load: float) -> None:
        """Advance by so many seconds, with `load` times the capacity."""
        end = self.now + seconds
        self._rate = load * self.capacity
        generation = next(self._ids)
        self._generation = generation
        self._arrive_later(generation)
        while self._events and self._events[0][0] <= end:
            self.now, _, happen = heapq.heappop(self._events)
            happen()
        self.now = end

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._ids), happen))

    def _sample(self) -> None:
        self.limits.append((self.now, self.shedder.limit))
        self._at(self.now + 0.5, self._sample)

    def _arrive_later(self, generation: int) -> None:
        if self._rate:
            when = self.now + self._random.expovariate(self._rate)
            self._at(when, lambda: self._arrive(generation))

    def _arrive(self, generation: int) -> None:
        if generation != self._generation:
            return
        self._arrive_later(generation)
        [kind] = self._random.choices(self.kinds, [one.weight for one in self.kinds])
        in_flight = self.shedder.enter(kind.route, self.now)
        if in_flight is None:
            self.shed.append((self.now, kind.route.request_class))
            return
        request = Sent(kind, self.now, in_flight)
        self.requests.append(request)
        self._unsent[kind.route.request_class is not RequestClass.CRITICAL].append(request)
        self._send()

    def _send(self) -> None:
        for unsent, most in zip(
            self._unsent, (CONNECTIONS, CONNECTIONS - CRITICAL_CONNECTIONS), strict=True
        ):
            while unsent and self._sent < most:
                self._sent += 1
                self._queue.append(unsent.popleft())
        while self._queue and self._busy < self.servers:
            self._busy += 1
            request = self._queue.popleft()
            work = self._random.expovariate(1 / request.kind.seconds) * self.slower(self.now)
            self._at(self.now + work, lambda request=request: self._answer(request))  # type: ignore[misc]

    def _answer(self, request: Sent) -> None:
        self._busy -= 1
        self._sent -= 1
        request.answered = self.now
        request.in_flight.on_response(200, self.now)
        request.in_flight.leave(self.now)
        self._send()

    # results, between two instants

    def answered(self, start: float, end: float, *classes: RequestClass) -> list[Sent]:
        """Return requests that were answered then."""
        return [
            one
            for one in self.requests
            if one.answered is not None
            and start <= one.answered < end
            and (not classes or one.kind.route.request_class in classes)
        ]

    def work(self, start: float, end: float) -> float:
        """Return the share of the servers' time that was used for work."""
        done = sum(one.kind.seconds for one in self.answered(start, end))
        return done / (self.servers * (end - start))

    def shed_share(self, start: float, end: float, request_class: RequestClass) -> float:
        """Return the share of requests of this class that were shed."""
        shed = sum(start <= when < end and one is request_class for when, one in self.shed)
        entered = sum(
            start <= one.arrived < end and one.kind.route.request_class is request_class
            for one in self.requests
        )
        return shed / ((shed + entered) or 1)

    def limits_between(self, start: float, end: float) -> list[float]:
        return [limit for when, limit in self.limits if start <= when < end]
