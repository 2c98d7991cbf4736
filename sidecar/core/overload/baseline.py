"""What a route's answers usually take while the API is not overloaded: what "slow" is measured by.

Each route has a time of its own, so that another mix of fast and slow routes is no overload.
Bounded by the routes of the plan book (`keep`).
"""

from collections.abc import Collection
from typing import Final

ENOUGH: Final = 25  # answers of which one mean is taken
FIRST: Final = 10  # the first mean needs fewer
UP_S: Final = 300.0  # a usual time follows a slower API this slowly: a queue grows faster
DOWN_S: Final = 30.0
SEEN_AT_MOST: Final = 250  # until so many answers were seen they all count the same,
BELIEVED: Final = 2.0  # but for a mean that is so many times the one before


class _Route:
    __slots__ = ("calls", "seconds", "seen", "since", "total")

    def __init__(self, now: float) -> None:
        self.seconds = 0.0  # 0: not known yet
        self.total = 0.0
        self.calls = 0
        self.seen = 0
        self.since = now


class UsualTimes:
    """Mean time to an answer, by route. Spans and instants in seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._routes: dict[str, _Route] = {}

    def learn(self, route_id: str, took: float, now: float, *, calm: bool) -> float:
        """Take one answer into account; what was usual before it, 0 when that is not known.

        `calm`: the API is not under suspicion. Else only what is faster is believed, so that an
        overload never comes to be usual.
        """
        route = self._routes.get(route_id)
        if route is None:
            route = self._routes[route_id] = _Route(now)
        usual = route.seconds
        route.total += took
        route.calls += 1
        if route.calls >= ENOUGH or (not usual and route.calls >= FIRST):
            self._step(route, now, calm=calm)
        return usual

    def usual(self, route_id: str) -> float:
        """Seconds; 0 when not known yet."""
        route = self._routes.get(route_id)
        return route.seconds if route is not None else 0.0

    def scale(self, by: float) -> None:
        """The API has another speed now: all routes take `by` times what they took."""
        for route in self._routes.values():
            route.seconds *= by
            route.total, route.calls = 0.0, 0

    def keep(self, route_ids: Collection[str]) -> None:
        """Forget all routes but these."""
        self._routes = {id_: one for id_, one in self._routes.items() if id_ in route_ids}

    @staticmethod
    def _step(route: _Route, now: float, *, calm: bool) -> None:
        mean = route.total / route.calls
        elapsed = now - route.since
        if not route.seconds:
            route.seconds = mean
        elif mean < route.seconds or calm:
            follow = DOWN_S if mean < route.seconds else UP_S
            part = elapsed / (elapsed + follow)
            if route.seen < SEEN_AT_MOST and mean < route.seconds * BELIEVED:
                part = max(part, route.calls / (route.seen + route.calls))
            route.seconds += (mean - route.seconds) * part
        route.seen = min(SEEN_AT_MOST, route.seen + route.calls)
        route.total, route.calls, route.since = 0.0, 0, now
