"""Distinguishes an overload from an upstream that is slow for another reason.

In an overload, response times follow the number of waiting requests. An upstream that is slow for
another reason takes as long for few requests as for many, and a limit would only starve it. So
each change of the limit is an experiment: did the response times follow the number in flight?
"""

from typing import Final

from sidecar.core.overload.window import WindowStats

ENOUGH: Final = 100  # responses, for any conclusion
RECENT: Final = 500  # responses
POWER: Final = 30.0  # responses, times the squared relative change, for a conclusion
UNCLEAR: Final = 0.35  # an effect farther than this from 0 and from 1 is inconclusive
SAME: Final = 0.2  # relative change of the number in flight that counts as no change
SAME_DROPS: Final = 0.8  # of the first share of drops: they are not fewer


class Experiment:
    """Compares response times at two numbers in flight: `now` and before."""

    def __init__(self, first: WindowStats, peak: int) -> None:
        self.now = WindowStats()
        self._peak = peak
        self._first_drop_share = first.drop_share
        self._before: WindowStats | None = None

    @property
    def has_begun(self) -> bool:
        """Whether response times before a change are known; the limit must not change earlier."""
        return self._before is not None

    @property
    def is_pending(self) -> bool:
        """Whether another number of requests waits now than before."""
        change = self._change
        return change is not None and abs(1 - change) >= SAME

    def add(self, window: WindowStats) -> None:
        """Add a window with shed requests, slow or not.

        Slow windows alone would look slow at any number in flight.
        """
        self.now.add(window)
        change = self._change
        if self.now.responses >= ENOUGH and (change is None or abs(1 - change) < SAME):
            self._merge()

    def has_no_effect(self, limit: float, *, by_drops: bool) -> bool:
        """Whether the limit does not help.

        `by_drops`: the limit is there because of drops. Then half the number in flight must reduce
        them.
        """
        now, before = self.now, self._before
        if by_drops:
            enough = now.responses + now.drops >= ENOUGH and limit <= self._peak / 2
            return enough and now.drop_share >= self._first_drop_share * SAME_DROPS
        change = self._change
        if before is None or change is None or not self.is_pending:
            return False
        samples = 2 / (1 / now.responses + 1 / before.responses)  # the harmonic mean
        if samples * (1 - change) ** 2 < POWER:
            if now.responses >= RECENT:  # the change is too small for a conclusion
                self._restart()
            return False
        effect = (now.slowness / before.slowness - 1) / (change - 1)  # 1: overload, 0: no effect
        if effect > 1 - UNCLEAR:
            self._restart()
        return effect < UNCLEAR

    def start_probe(self) -> None:
        """Compare from now on with a higher limit."""
        if self.now.responses >= ENOUGH:
            self._before = self.now
        self.now = WindowStats()

    def probe_had_no_effect(self) -> bool:
        """Whether a higher limit, after its probe, has not made the upstream slower."""
        now, before, change = self.now, self._before, self._change
        if before is None or change is None:
            return False
        return now.slowness / before.slowness < (1 + max(1 + SAME, change)) / 2

    @property
    def _change(self) -> float | None:
        """Ratio of the numbers of waiting requests, now to before; None if unknown."""
        now, before = self.now, self._before
        if before is None or not now.responses or not before.waiting:
            return None
        return now.mean_waiting / before.mean_waiting

    def _merge(self) -> None:
        """Count `now` as before, since the number in flight is the same."""
        if self._before is not None and self._before.responses < RECENT:
            self.now.add(self._before)
        self._restart()

    def _restart(self) -> None:
        self._before, self.now = self.now, WindowStats()
