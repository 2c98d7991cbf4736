"""The adaptive limit: how many requests the upstream can answer in time.

Laws
----

*Little's law.* In flight = throughput × response time. A saturated upstream has a fixed
throughput, so each further request in flight only makes all responses slower. And a number in
flight follows from a tolerated response time: the responses per second times what each may take.

*Markov's inequality.* At most half of a distribution lies beyond twice its mean. If more than half
of the responses take more than twice the baseline, the mean itself has moved; variance alone never
does that (`window.py`).

*Feedback.* In an overload, response times follow the number in flight. If another number in flight
changes nothing, the upstream is slow for another reason, such as its database (`experiment.py`).

States
------

Time is divided into windows of at least `WINDOW_S` and `MIN_SAMPLES` requests. A window is
overloaded if it is slow, or if its share of drops is `OVERLOAD_DROPS` above the normal one. From
`DOWN_DROPS` on, the upstream is down, and fewer requests do not help. Without a limit, a window
with fewer than `minimum` requests in flight is never overloaded.

    CALM       No limit. The baseline follows the responses.
    SUSPECTED  No limit. The last windows were overloaded; slower responses do not change the
               baseline.
    LIMITING   The limit starts at the number in flight that Little's law gives for tolerated
               response times. It shrinks with each overloaded window, and grows with the others
               while it is used. Responses to requests from before the last change are ignored.
    PROBING    The limit is at its minimum, where it cannot shrink, and responses are still slow. So
               it is raised, to see whether that makes them slower.

`TRANSITIONS` has every transition; a trigger without a row raises KeyError. All other windows leave
the state as it is.

Source
------

The idea is that of Netflix's concurrency-limits. Its Vegas limit estimates the queue as
limit × (1 − minimum time / time), and adds or subtracts a constant. Its Gradient2 limit multiplies
by long-term time / time, at least 0.5, adds a constant and smooths the result. This one differs:

- It has no limit while the upstream is healthy, so a burst of any size passes. Theirs always has
  one, which use must raise first.
- Its baseline is a mean per route: the minimum is meaningless on a route with fast and slow
  requests. It does not follow slower responses during an overload, as a long-term average does.
- It starts from Little's law instead of a search. Its lower bound is what keeps the upstream busy.
- It checks by experiment that the limit helps, and gives it up if it does not.
"""

from collections.abc import Collection
from enum import StrEnum
from math import inf
from typing import Final

from sidecar.core.overload.baseline import Baseline
from sidecar.core.overload.experiment import ENOUGH, Experiment
from sidecar.core.overload.window import (
    DROP_STEP,
    TOLERATED_EXTRA_S,
    TOLERATED_RATIO,
    WindowStats,
)

# windows
WINDOW_S: Final = 0.5
MIN_SAMPLES: Final = 25
STALE_S: Final = 30.0  # a longer window says nothing about the present
OVERLOAD_DROPS: Final = 0.1
DOWN_DROPS: Final = 0.9
MAX_IGNORE_S: Final = 10.0  # for which responses are ignored after a change of the limit
# suspicion
CONFIRMED: Final = 3  # weight of overloaded windows in a row: 2 for a very slow one, else 1
# limit
CALM_S: Final = 10.0  # without a shed request or an overloaded window, until the limit ends
GROWTH: Final = 1.03  # per window
FAST_GROWTH: Final = 1.1  # per window, after so many healthy ones in a row:
FAST_GROWTH_AFTER: Final = 8
BACKLOG: Final = 1.2  # times the limit: requests from before it are still in flight,
MAX_BACKLOG: Final = 6  # in at most so many windows
# probe
STUCK: Final = 5  # overloaded windows at the minimum, until a probe
PROBE: Final = 1.5  # times the minimum


class OverloadState(StrEnum):
    """State of an adaptive limit."""

    CALM = "calm"
    SUSPECTED = "suspected"
    LIMITING = "limiting"
    PROBING = "probing"


class Trigger(StrEnum):
    """Cause of a transition."""

    OVERLOADED = "overloaded"  # a window was overloaded
    HEALTHY = "healthy"  # a window was not
    CONFIRMED = "confirmed"  # overloaded windows in a row weigh `CONFIRMED`
    QUIET = "quiet"  # `CALM_S` have passed
    STUCK = "stuck"  # `STUCK` windows were overloaded at the minimum
    NO_EFFECT = "no-effect"  # response times do not follow the number in flight
    EFFECT = "effect"  # they do


TRANSITIONS: Final = {
    (OverloadState.CALM, Trigger.OVERLOADED): OverloadState.SUSPECTED,
    (OverloadState.SUSPECTED, Trigger.HEALTHY): OverloadState.CALM,
    (OverloadState.SUSPECTED, Trigger.CONFIRMED): OverloadState.LIMITING,
    (OverloadState.LIMITING, Trigger.QUIET): OverloadState.CALM,
    (OverloadState.LIMITING, Trigger.NO_EFFECT): OverloadState.CALM,
    (OverloadState.LIMITING, Trigger.STUCK): OverloadState.PROBING,
    (OverloadState.PROBING, Trigger.QUIET): OverloadState.CALM,
    (OverloadState.PROBING, Trigger.NO_EFFECT): OverloadState.CALM,
    (OverloadState.PROBING, Trigger.EFFECT): OverloadState.LIMITING,
}
_CALM: Final = OverloadState.CALM


class _Episode:
    """One overload, from its confirmation to the end of the limit."""

    __slots__ = ("backlog", "busy", "by_drops", "experiment", "healthy", "stuck")

    def __init__(self, window: WindowStats, peak: int, *, by_drops: bool) -> None:
        self.experiment = Experiment(window, peak)
        self.by_drops = by_drops  # drops have caused it, not slow responses
        self.busy = window.busy_in_flight  # lower bound of the limit
        self.stuck = 0  # overloaded windows at the minimum
        self.backlog = 0  # windows in a row with requests from before the limit
        self.healthy = 0  # windows in a row that were not overloaded


class AdaptiveLimit:
    """`value` is the maximum number of requests that wait for a response; `inf` without a limit.

    It is never below `minimum`. `peak` is the highest number of waiting requests in this window;
    the shedder keeps it. Spans and instants are seconds of one monotonic clock.
    """

    def __init__(self, minimum: int) -> None:
        self.state = OverloadState.CALM
        self.value = inf
        self._minimum = minimum
        self._baseline = Baseline()
        self._baseline_drops = 0.0  # share
        self._suspicion: WindowStats | None = None  # overloaded windows in a row
        self._suspicion_weight = 0
        self._episode: _Episode | None = None
        self._pressed_at = -inf  # last shed request or overloaded window
        self._ignored_until = -inf
        self._start_window(0.0, 0)

    def lift_if_quiet(self, now: float) -> bool:
        """End the limit `CALM_S` after its last use. False: the limit is in force."""
        if self.value != inf and now - self._pressed_at >= CALM_S:
            self._lift(Trigger.QUIET)
        return self.value == inf

    def on_shed(self, now: float) -> None:
        """Count a shed request."""
        self._shed = True
        self._pressed_at = now

    def on_response(self, route_id: str, seconds: float, waiting: int, now: float) -> None:
        """Count a response whose head took `seconds`; `waiting` requests still wait."""
        calm = self.state is _CALM
        baseline_s = self._baseline.learn(route_id, seconds, now, calm=calm)
        if baseline_s and now >= self._ignored_until:
            self._count(baseline_s, seconds, waiting, now)

    def on_client_gone(self, route_id: str, seconds: float, waiting: int, now: float) -> None:
        """Count a client that left without a response, if it was slow: it would take longer yet."""
        baseline_s = self._baseline.of(route_id)
        if baseline_s and seconds > baseline_s and now >= self._ignored_until:
            self._count(baseline_s, seconds, waiting, now)

    def on_drop(self, waiting: int, now: float) -> None:
        """Count a request without a usable response, or with a status of an overloaded upstream."""
        if now >= self._ignored_until:
            self._window.drops += 1
            self._window.waiting += waiting
            self._close_window(waiting, now)

    def retain_routes(self, route_ids: Collection[str]) -> None:
        """Forget all other routes."""
        self._baseline.retain_routes(route_ids)

    # windows

    def _start_window(self, now: float, waiting: int) -> None:
        self._window = WindowStats()
        self._window_start = now
        self.peak = waiting
        self._shed = False

    def _count(self, baseline_s: float, seconds: float, waiting: int, now: float) -> None:
        if baseline_s > TOLERATED_EXTRA_S:
            tolerated_s = baseline_s * TOLERATED_RATIO
        else:
            tolerated_s = baseline_s + TOLERATED_EXTRA_S
        window = self._window
        window.responses += 1
        window.response_s += seconds
        window.baseline_s += baseline_s
        window.tolerated_s += tolerated_s
        window.waiting += waiting
        if seconds > tolerated_s:
            window.slow += 1
        length_s = now - self._window_start
        if length_s > STALE_S or (window.responses >= MIN_SAMPLES and length_s >= WINDOW_S):
            self._close_window(waiting, now)

    def _close_window(self, waiting: int, now: float) -> None:
        window, length_s = self._window, now - self._window_start
        if length_s > STALE_S:
            self._start_window(now, waiting)
        elif length_s >= WINDOW_S and window.responses + window.drops >= MIN_SAMPLES:
            window.length_s = length_s
            peak, shed = self.peak, self._shed
            self._start_window(now, waiting)
            self._judge(window, peak, shed=shed, now=now)

    def _judge(self, window: WindowStats, peak: int, *, shed: bool, now: float) -> None:
        slow, drops = window.is_slow, window.drop_share
        dropping = self._baseline_drops + OVERLOAD_DROPS < drops < DOWN_DROPS
        self._baseline_drops = min(self._baseline_drops, drops)
        episode = self._episode
        if episode is not None and self.state is OverloadState.PROBING:
            self._probe(episode, window)
            self._pressed_at = now
        elif not (slow or dropping) or (peak < self._minimum and self.lift_if_quiet(now)):
            self._relax(window, peak, shed=shed, now=now)
        else:
            self._pressed_at = now
            if episode is None:
                self._suspect(window, peak, slow=slow, dropping=dropping, now=now)
            else:
                self._press(episode, window, peak, dropping=dropping, shed=shed)
                self._ignore_earlier(window, now)

    def _ignore_earlier(self, window: WindowStats, now: float) -> None:
        """Ignore responses until those to requests from before the change have come."""
        mean_s = window.response_s / (window.responses or 1)
        self._ignored_until = now + min(MAX_IGNORE_S, 2 * mean_s)
        self._window_start = max(now, self._ignored_until)

    # transitions

    def _fire(self, trigger: Trigger) -> None:
        self.state = TRANSITIONS[self.state, trigger]

    def _suspect(
        self, window: WindowStats, peak: int, *, slow: bool, dropping: bool, now: float
    ) -> None:
        if self._suspicion is None:
            self._fire(Trigger.OVERLOADED)
        else:
            window.add(self._suspicion)
        self._suspicion = window
        self._suspicion_weight += 2 if dropping or window.is_very_slow else 1
        if self._suspicion_weight < CONFIRMED:
            return
        self._fire(Trigger.CONFIRMED)
        self._forget_suspicion()
        self._episode = _Episode(window, peak, by_drops=not slow)
        start = min(peak, window.tolerated_in_flight) if slow else peak * DROP_STEP
        self.value = max(self._minimum, start)
        self._ignore_earlier(window, now)

    def _relax(self, window: WindowStats, peak: int, *, shed: bool, now: float) -> None:
        if self._suspicion is not None:
            self._fire(Trigger.HEALTHY)
            self._forget_suspicion()
        episode = self._episode
        if episode is None:
            return
        if shed:
            episode.experiment.add(window)
        episode.backlog = 0
        episode.healthy += 1
        if episode.healthy > 1:
            episode.stuck = 0
        used = shed or peak * 2 > self.value
        if not self.lift_if_quiet(now) and used:
            self.value *= GROWTH if episode.healthy < FAST_GROWTH_AFTER else FAST_GROWTH

    def _press(
        self, episode: _Episode, window: WindowStats, peak: int, *, dropping: bool, shed: bool
    ) -> None:
        episode.healthy = 0
        episode.backlog = episode.backlog + 1 if peak > self.value * BACKLOG else 0
        if 0 < episode.backlog <= MAX_BACKLOG:
            return
        experiment = episode.experiment
        if shed:
            experiment.add(window)
        if experiment.has_no_effect(self.value, by_drops=episode.by_drops):
            self._adopt_baseline(experiment)
            return
        if dropping or experiment.has_begun:
            self._shrink(episode, window, dropping=dropping)
        if self.value == self._minimum:
            episode.stuck += 1
            if episode.stuck >= STUCK and not experiment.is_pending and not episode.by_drops:
                experiment.start_probe()
                self.value = self._minimum * PROBE
                self._fire(Trigger.STUCK)

    def _shrink(self, episode: _Episode, window: WindowStats, *, dropping: bool) -> None:
        busy = window.busy_in_flight
        episode.busy = max(busy, 0.9 * episode.busy + 0.1 * busy)
        wanted = self.value * window.step(dropping=dropping)
        if not dropping:
            wanted = min(self.value, max(wanted, episode.busy))
        self.value = max(self._minimum, wanted)

    def _probe(self, episode: _Episode, window: WindowStats) -> None:
        experiment = episode.experiment
        experiment.now.add(window)
        if experiment.now.responses < 2 * ENOUGH:
            return
        if experiment.probe_had_no_effect():
            self._adopt_baseline(experiment)
            return
        experiment.start_probe()
        self.value = float(self._minimum)
        episode.stuck = -2 * STUCK
        self._fire(Trigger.EFFECT)

    def _adopt_baseline(self, experiment: Experiment) -> None:
        """End the limit: the present speed of the upstream is the baseline."""
        self._baseline.scale(max(1.0, experiment.now.slowness))
        self._baseline_drops = experiment.now.drop_share
        self._lift(Trigger.NO_EFFECT)

    def _lift(self, trigger: Trigger) -> None:
        self._fire(trigger)
        self.value = inf
        self._episode = None

    def _forget_suspicion(self) -> None:
        self._suspicion = None
        self._suspicion_weight = 0
