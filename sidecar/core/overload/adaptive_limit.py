"""How many calls the API can answer at once, found from how long its answers take.

There is no limit until the API is overloaded, which is: in two or three windows on end the calls
took more than twice what is usual on their routes, and 100 ms more at least, all in all and more
than half of them each. (Of no distribution is more than half beyond twice the mean: Markov's
inequality. So variance, however large, is no overload.) Or a tenth of them got no answer, but
not nearly all: then the API is down, and fewer calls are of no help.

The limit then is what keeps the times below that: by Little's law the calls that are answered
per second, times what each may take. It shrinks at once, grows by 3 % a window while it is used
and answers come in time, later by 10 %, and goes when nobody was shed for ten seconds. An API
that is slow for another reason is told apart (`trial.py`): its times become the usual ones.
"""

from collections.abc import Collection
from math import inf
from typing import Final

from sidecar.core.overload.baseline import UsualTimes
from sidecar.core.overload.experiment import ENOUGH, Experiment, WindowStats

WINDOW_S: Final = 0.5  # at least, and so many calls:
CALLS: Final = 25
STALE_S: Final = 30.0  # a window that takes longer tells nothing of now
TOLERATED: Final = 2.0  # times the usual time
HURT_S: Final = 0.1  # what has to be added to it for anybody to mind
DROPPED: Final = 0.1  # share of calls without an answer; from
DOWN: Final = 0.9  # this one on it is not overloaded but down
LEAST_STEP, MOST_STEP = 0.5, 0.97  # what one slow window may leave of the limit
DROP_STEP: Final = 0.9
BUSY: Final = 1.5  # times the work that gets done: with fewer in flight less would be
STILL_ABOVE: Final = 1.2  # times the limit: those who came before it have yet to be answered
ABOVE: Final = 6  # windows in which that may be so
POINTS: Final = 3  # of slow windows on end: 2 for one that is clearly slow, else 1
CLEARLY: Final = 2.0  # times what is tolerated
STEP_UP: Final = 1.03
LATER_STEP_UP: Final = 1.1  # when so many windows on end were not slow:
RELIEVED: Final = 8
CALM_S: Final = 10.0
DEAF_AT_MOST_S: Final = 10.0
STUCK: Final = 5  # slow windows at the least limit, until a higher one is tried
PROBE: Final = 1.5  # times the least limit


def _step(window: WindowStats, *, dropping: bool) -> float:
    """What the limit is multiplied by after a slow window, or one with drops."""
    if not window.took:
        return DROP_STEP
    share = window.slow / window.calls
    step = min(MOST_STEP, window.borne / window.took, 1 - 0.3 * (share - 0.5))
    return max(LEAST_STEP, min(step, DROP_STEP) if dropping else step)


class AdaptiveLimit:
    """`value` is the limit in calls that wait for an answer, `inf` while there is none.

    It never falls below `least`, and with fewer in flight nothing is suspected. `peak` is the
    most that waited at once in this window, kept by whoever lets them in. Spans and instants are
    in seconds of one monotonic clock.
    """

    def __init__(self, least: int) -> None:
        self.value = inf
        self._least = least
        self._times = UsualTimes()
        self._usual_drops = 0.0
        self._suspicion: WindowStats | None = None  # slow windows on end, without a limit yet
        self._points = 0  # what they weigh
        self._relieved = 0  # windows on end that were not slow
        self._pressed_at = -inf  # last call that was shed, or slow window
        self._deaf_until = -inf  # what ends before was there before the limit fell
        self._floor = 0.0  # so many in flight keep the API busy
        self._stuck = self._above = 0
        self._probing = self._of_drops = False
        self._trial: Experiment | None = None
        self._start(0.0, 0)

    def _start(self, now: float, waiting: int) -> None:
        self._window = WindowStats()
        self._began = now
        self.peak = waiting
        self._shed = False

    def is_over(self, now: float) -> bool:
        """Whether there is no limit, or none any more."""
        if self.value != inf and now - self._pressed_at >= CALM_S:
            self._open()
        return self.value == inf

    def shed(self, now: float) -> None:
        """A call was shed."""
        self._shed = True
        self._pressed_at = now

    def answered(self, route_id: str, took: float, waiting: int, now: float) -> None:
        """An answer began after `took` seconds; so many calls still wait."""
        calm = self.value == inf and self._suspicion is None
        usual = self._times.learn(route_id, took, now, calm=calm)
        if usual and now >= self._deaf_until:
            self._count(usual, took, waiting, now)

    def given_up(self, route_id: str, took: float, waiting: int, now: float) -> None:
        """A client left after `took` seconds without an answer: it would have taken longer."""
        usual = self._times.usual(route_id)
        if usual and took > usual and now >= self._deaf_until:
            self._count(usual, took, waiting, now)

    def dropped(self, waiting: int, now: float) -> None:
        """The API gave no usable answer, or said itself that it is overloaded."""
        if now >= self._deaf_until:
            self._window.drops += 1
            self._window.waiting += waiting
            self._close(waiting, now)

    def keep(self, route_ids: Collection[str]) -> None:
        """Forget all routes but these."""
        self._times.keep(route_ids)

    def _count(self, usual: float, took: float, waiting: int, now: float) -> None:
        borne = usual * TOLERATED if usual > HURT_S else usual + HURT_S
        window = self._window
        window.calls += 1
        window.took += took
        window.usual += usual
        window.borne += borne
        window.waiting += waiting
        if took > borne:
            window.slow += 1
        seconds = now - self._began
        if seconds > STALE_S or (window.calls >= CALLS and seconds >= WINDOW_S):
            self._close(waiting, now)

    def _close(self, waiting: int, now: float) -> None:
        window, seconds = self._window, now - self._began
        if seconds > STALE_S:
            self._start(now, waiting)
        elif seconds >= WINDOW_S and window.calls + window.drops >= CALLS:
            window.seconds = seconds
            peak, shed = self.peak, self._shed
            self._start(now, waiting)
            self._judge(window, peak, shed=shed, now=now)

    def _judge(self, window: WindowStats, peak: int, *, shed: bool, now: float) -> None:
        slow = window.slow * 2 > window.calls and window.took > window.borne
        dropping = self._usual_drops + DROPPED < window.dropped < DOWN
        self._usual_drops = min(self._usual_drops, window.dropped)
        if self._probing and self._trial is not None:
            self._go_on_probing(self._trial, window)
            self._pressed_at = now
            return
        if not (slow or dropping) or (peak < self._least and self.is_over(now)):
            if shed and self._trial is not None:
                self._trial.add(window)
            self._relieve(now, used=shed or peak * 2 > self.value)
            return
        self._pressed_at, self._relieved = now, 0
        if self._trial is None:
            self._suspect(window, peak, slow=slow, dropping=dropping, now=now)
        else:
            self._press(window, peak, dropping=dropping, shed=shed)
            self._listen_later(window, now)

    def _relieve(self, now: float, *, used: bool) -> None:
        self._suspicion, self._points = None, 0
        self._above = 0
        self._relieved += 1
        if self._relieved > 1:
            self._stuck = 0
        if not self.is_over(now) and used:
            self.value *= STEP_UP if self._relieved < RELIEVED else LATER_STEP_UP

    def _suspect(
        self, window: WindowStats, peak: int, *, slow: bool, dropping: bool, now: float
    ) -> None:
        if self._suspicion is not None:
            window.add(self._suspicion)
        self._suspicion = window
        clear = dropping or window.took > window.borne * CLEARLY
        self._points += 2 if clear else 1
        if self._points < POINTS:
            return
        self._trial, self._of_drops = Experiment(window, peak), not slow
        self._floor = window.usual / window.seconds * BUSY
        room = min(peak, window.borne / window.seconds) if slow else peak * DROP_STEP
        self.value = max(self._least, room)
        self._listen_later(window, now)

    def _press(self, window: WindowStats, peak: int, *, dropping: bool, shed: bool) -> None:
        trial = self._trial
        assert trial is not None  # noqa: S101 - there is a limit
        self._above = self._above + 1 if peak > self.value * STILL_ABOVE else 0
        if 0 < self._above <= ABOVE:
            return
        if shed:
            trial.add(window)
        if trial.is_in_vain(self.value, of_drops=self._of_drops):
            self._adopt(trial)
            return
        if dropping or trial.has_begun:
            self._reduce(window, dropping=dropping)
        if self.value == self._least:
            self._stuck += 1
            if self._stuck >= STUCK and not trial.is_pending and not self._of_drops:
                trial.begin_probe()
                self.value = self._least * PROBE
                self._probing = True

    def _go_on_probing(self, trial: Experiment, window: WindowStats) -> None:
        trial.now.add(window)
        if trial.now.calls < 2 * ENOUGH:
            return
        if trial.probed():
            self._adopt(trial)
            return
        trial.begin_probe()
        self.value = float(self._least)
        self._probing, self._stuck = False, -2 * STUCK

    def _reduce(self, window: WindowStats, *, dropping: bool) -> None:
        floor = window.usual / window.seconds * BUSY
        self._floor = max(floor, 0.9 * self._floor + 0.1 * floor)
        wanted = self.value * _step(window, dropping=dropping)
        if not dropping:
            wanted = min(self.value, max(wanted, self._floor))
        self.value = max(self._least, wanted)

    def _listen_later(self, window: WindowStats, now: float) -> None:
        """Answers to calls that had come before the limit fell tell nothing of what it does."""
        took = window.took / (window.calls or 1)
        self._deaf_until = now + min(DEAF_AT_MOST_S, 2 * took)
        self._began = max(now, self._deaf_until)

    def _adopt(self, trial: Experiment) -> None:
        """This is how the API is now."""
        self._times.scale(max(1.0, trial.now.slowness))
        self._usual_drops = trial.now.dropped
        self._open()

    def _open(self) -> None:
        self.value = inf
        self._suspicion = self._trial = None
        self._points = self._relieved = 0
        self._stuck, self._above, self._probing, self._of_drops = 0, 0, False, False
