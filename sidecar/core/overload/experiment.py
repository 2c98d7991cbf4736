"""Is the API overloaded, or did it just get slower? What another number in flight does to it tells.

In an overload the times follow the number of calls that wait; an API that is slow for a reason
of its own takes as long for few as for many. Without this a limit would starve such an API.
"""

from typing import Final

ENOUGH: Final = 100  # calls, to say anything at all
RECENT: Final = 500  # calls
POWER: Final = 30.0  # calls, times the square of the difference: what a verdict needs
UNCLEAR: Final = 0.35  # so far from either answer is none
SAME: Final = 0.2  # a difference that is none
STILL: Final = 0.8  # of the drops there were: no fewer


class WindowStats:
    """What was seen in a window, or in several. Times in seconds."""

    __slots__ = ("borne", "calls", "drops", "seconds", "slow", "took", "usual", "waiting")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.calls = self.drops = self.slow = 0
        self.took = self.usual = self.borne = 0.0
        self.waiting = 0  # at each answer, in all

    def add(self, other: "WindowStats") -> None:
        """Both together."""
        for name in WindowStats.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def dropped(self) -> float:
        """Share of calls that got no answer."""
        return self.drops / ((self.calls + self.drops) or 1)

    @property
    def slowness(self) -> float:
        """How many times longer than usual the answers took."""
        return self.took / self.usual if self.usual and self.took else 1.0


class Experiment:
    """Compares the times of now with those at another number in flight."""

    def __init__(self, at_first: WindowStats, peak: int) -> None:
        self.now = WindowStats()
        self._peak = peak
        self._dropped = at_first.dropped
        self._before: WindowStats | None = None

    @property
    def has_begun(self) -> bool:
        """Whether it is known how it was before: until then nothing should be changed."""
        return self._before is not None

    def add(self, window: WindowStats) -> None:
        """Take a window in which calls were shed, slow or not: slow ones alone would look slow
        at any number in flight."""
        self.now.add(window)
        more = self._more
        if self.now.calls >= ENOUGH and (more is None or abs(1 - more) < SAME):
            self._remember()

    def is_in_vain(self, limit: float, *, of_drops: bool) -> bool:
        """Whether the limit is of no use.

        `of_drops`: it is there because calls got no answer. Then half as many in flight ought to
        be of help.
        """
        now, before = self.now, self._before
        if of_drops:
            enough = now.calls + now.drops >= ENOUGH and limit <= self._peak / 2
            return enough and now.dropped >= self._dropped * STILL
        more = self._more
        if before is None or more is None or not self.is_pending:
            return False
        calls = 2 / (1 / now.calls + 1 / before.calls)  # as good as so many on either side
        if calls * (1 - more) ** 2 < POWER:
            if now.calls >= RECENT:  # too small a difference to tell
                self._before, self.now = now, WindowStats()
            return False
        follows = (now.slowness / before.slowness - 1) / (more - 1)  # 1: an overload, 0: in vain
        if follows > 1 - UNCLEAR:
            self._before, self.now = now, WindowStats()
        return follows < UNCLEAR

    @property
    def is_pending(self) -> bool:
        """Whether another number waits now than before, so that there is something to learn."""
        more = self._more
        return more is not None and abs(1 - more) >= SAME

    @property
    def _more(self) -> float | None:
        """How many times as many waited now as before; None when that cannot be said."""
        now, before = self.now, self._before
        if before is None or not now.calls or not before.waiting:
            return None
        return _waiting(now) / _waiting(before)

    def _remember(self) -> None:
        """The same number in flight as before: both are before, if that is not long ago."""
        if self._before is not None and self._before.calls < RECENT:
            self.now.add(self._before)
        self._before, self.now = self.now, WindowStats()

    def probed(self) -> bool:
        """Whether a higher limit did not make the API any slower; asked when it is over."""
        now, before, more = self.now, self._before, self._more
        if before is None or more is None:
            return False
        return now.slowness / before.slowness < (1 + max(1 + SAME, more)) / 2

    def begin_probe(self) -> None:
        """What comes now is at a higher limit."""
        if self.now.calls >= ENOUGH:
            self._before = self.now
        self.now = WindowStats()


def _waiting(sums: WindowStats) -> float:
    return sums.waiting / ((sums.calls + sums.drops) or 1)
