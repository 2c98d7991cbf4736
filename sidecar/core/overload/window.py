"""Statistics of one window of responses, or of several together."""

from typing import Final

TOLERATED_RATIO: Final = 2.0  # times the baseline, and at least so much more:
TOLERATED_EXTRA_S: Final = 0.1
VERY_SLOW_RATIO: Final = 2.0  # times what is tolerated
MIN_STEP, MAX_STEP = 0.5, 0.97  # bounds of the factor by which one slow window shrinks a limit
DROP_STEP: Final = 0.9
BUSY_RATIO: Final = 1.5  # times the work that gets done: fewer in flight would leave capacity idle


class WindowStats:
    """Sums over the responses of a window. Times are seconds to the head of the response.

    `waiting` sums the number of requests that waited at each response or drop.
    """

    __slots__ = (
        "baseline_s", "drops", "length_s", "response_s", "responses", "slow", "tolerated_s",
        "waiting",
    )  # fmt: skip

    def __init__(self) -> None:
        self.length_s = 0.0
        self.responses = self.drops = self.slow = 0
        self.response_s = self.baseline_s = self.tolerated_s = 0.0
        self.waiting = 0

    def add(self, other: "WindowStats") -> None:
        """Merge another window into this one."""
        self.length_s += other.length_s
        self.responses += other.responses
        self.drops += other.drops
        self.slow += other.slow
        self.response_s += other.response_s
        self.baseline_s += other.baseline_s
        self.tolerated_s += other.tolerated_s
        self.waiting += other.waiting

    @property
    def is_slow(self) -> bool:
        """Whether the responses took more than tolerated: in sum, and more than half of them.

        No distribution has more than half of its values beyond twice its mean (Markov's
        inequality), so variance alone, however large, is never slow.
        """
        return self.slow * 2 > self.responses and self.response_s > self.tolerated_s

    @property
    def is_very_slow(self) -> bool:
        """Whether the responses took more than twice what is tolerated."""
        return self.response_s > self.tolerated_s * VERY_SLOW_RATIO

    @property
    def drop_share(self) -> float:
        """Share of requests without a usable response."""
        return self.drops / ((self.responses + self.drops) or 1)

    @property
    def slowness(self) -> float:
        """Response times, as a multiple of the baseline."""
        return self.response_s / self.baseline_s if self.baseline_s and self.response_s else 1.0

    @property
    def mean_waiting(self) -> float:
        """Mean number of waiting requests."""
        return self.waiting / ((self.responses + self.drops) or 1)

    @property
    def tolerated_in_flight(self) -> float:
        """Number in flight at which responses take what is tolerated (Little's law)."""
        return self.tolerated_s / self.length_s

    @property
    def busy_in_flight(self) -> float:
        """Number in flight that keeps the upstream busy with what it gets done."""
        return self.baseline_s / self.length_s * BUSY_RATIO

    def step(self, *, dropping: bool) -> float:
        """Return the factor by which an overloaded window shrinks the limit."""
        if not self.response_s:
            return DROP_STEP
        share = self.slow / self.responses
        step = min(MAX_STEP, self.tolerated_s / self.response_s, 1 - 0.3 * (share - 0.5))
        return max(MIN_STEP, min(step, DROP_STEP) if dropping else step)
