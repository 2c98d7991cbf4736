"""Windows of responses for an adaptive limit, each just long enough to be judged."""

from sidecar.core.overload.adaptive_limit import MIN_SAMPLES, WINDOW_S, AdaptiveLimit

SLOW = [0.6] * MIN_SAMPLES
VERY_SLOW = [1.0] * MIN_SAMPLES
NORMAL = [0.2] * MIN_SAMPLES


class Upstream:
    """An upstream with a baseline of `normal` seconds; tests choose its response times."""

    def __init__(self, normal: float = 0.2, minimum: int = 20) -> None:
        self.limit = AdaptiveLimit(minimum)
        self.now = 0.0
        for _ in range(12 * MIN_SAMPLES):
            self._respond(normal, 1)
        while self.limit._window.responses:  # until a window has just begun
            self._respond(normal, 1)

    def _respond(self, seconds: float, waiting: int) -> None:
        self.now += 1.01 * WINDOW_S / MIN_SAMPLES
        self.limit.on_response("rest", seconds, waiting, self.now)

    def window(self, times: list[float], waiting: int = 100, drops: int = 0) -> float:
        """Send one window of responses and drops, and return the limit after it."""
        limit = self.limit
        limit.peak = max(limit.peak, waiting)
        count = len(times) + drops
        for number in range(count):
            self.now += 1.01 * WINDOW_S / count
            if number < len(times):
                limit.on_response("rest", times[number], waiting, self.now)
            else:
                limit.on_drop(waiting, self.now)
        self.now = max(self.now, limit._ignored_until)
        return limit.value
