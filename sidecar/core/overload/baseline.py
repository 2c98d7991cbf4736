"""Response times of each route while the upstream is not overloaded.

Each route has its own baseline, so another mix of fast and slow routes is not an overload. Memory
is bounded by the routes of the live plan file (`retain_routes`).
"""

from collections.abc import Collection
from typing import Final

ENOUGH: Final = 25  # responses per mean
FIRST: Final = 10  # responses of the first mean
RISE_S: Final = 300.0  # time constant for slower responses: a queue grows faster
FALL_S: Final = 30.0  # time constant for faster responses
EQUAL_WEIGHT: Final = 250  # up to so many responses, all count the same,
PLAUSIBLE: Final = 2.0  # unless a mean is so many times the baseline


class _Route:
    __slots__ = ("baseline_s", "responses", "seen", "since", "sum_s")

    def __init__(self, now: float) -> None:
        self.baseline_s = 0.0  # 0: unknown
        self.sum_s = 0.0  # of the responses since `since`
        self.responses = 0
        self.seen = 0
        self.since = now


class Baseline:
    """Mean response time by route. Times in seconds, instants of one monotonic clock."""

    def __init__(self) -> None:
        self._routes: dict[str, _Route] = {}

    def learn(self, route_id: str, seconds: float, now: float, *, calm: bool) -> float:
        """Add a response, and return the baseline before it; 0 if it is unknown.

        Unless `calm`, only faster responses change the baseline, so that an overload never becomes
        the baseline.
        """
        route = self._routes.get(route_id)
        if route is None:
            route = self._routes[route_id] = _Route(now)
        baseline_s = route.baseline_s
        route.sum_s += seconds
        route.responses += 1
        if route.responses >= ENOUGH or (not baseline_s and route.responses >= FIRST):
            self._step(route, now, calm=calm)
        return baseline_s

    def of(self, route_id: str) -> float:
        """Return the baseline of a route in seconds; 0 if it is unknown."""
        route = self._routes.get(route_id)
        return route.baseline_s if route is not None else 0.0

    def scale(self, factor: float) -> None:
        """Multiply all baselines: the upstream has another speed now."""
        for route in self._routes.values():
            route.baseline_s *= factor
            route.sum_s, route.responses = 0.0, 0

    def retain_routes(self, route_ids: Collection[str]) -> None:
        """Forget all other routes."""
        self._routes = {id_: one for id_, one in self._routes.items() if id_ in route_ids}

    @staticmethod
    def _step(route: _Route, now: float, *, calm: bool) -> None:
        mean = route.sum_s / route.responses
        elapsed = now - route.since
        if not route.baseline_s:
            route.baseline_s = mean
        elif mean < route.baseline_s or calm:
            constant_s = FALL_S if mean < route.baseline_s else RISE_S
            weight = elapsed / (elapsed + constant_s)
            if route.seen < EQUAL_WEIGHT and mean < route.baseline_s * PLAUSIBLE:
                weight = max(weight, route.responses / (route.seen + route.responses))
            route.baseline_s += (mean - route.baseline_s) * weight
        route.seen = min(EQUAL_WEIGHT, route.seen + route.responses)
        route.sum_s, route.responses, route.since = 0.0, 0, now
