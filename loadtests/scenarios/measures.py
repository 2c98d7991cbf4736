"""The arithmetic of the verdicts, as pure functions."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

from loadtests.checks import Rate

ENOUGH: Final = 20  # times in a phase: fewer say nothing about a p99


def p99(times: Sequence[float]) -> float:
    """The time that one in a hundred exceeds. Raises IndexError without times."""
    return sorted(times)[int(len(times) * 0.99)]


def typical_p99(phases: Sequence[Sequence[float]]) -> float | None:
    """The median of the phases' p99s; None if a phase has too few requests.

    The median keeps one disturbance from outside from deciding.
    """
    if not phases or any(len(times) < ENOUGH for times in phases):
        return None
    return median(p99(times) for times in phases)


def over_rate(arrivals: Sequence[float], rate: Rate) -> float:
    """By how many requests the fullest window of any length exceeds burst + rate × window.

    Negative if no window does. `arrivals` are seconds, ascending; each request costs one unit.
    """
    per_second = float(rate.per_second)
    least, worst = float("inf"), float("-inf")
    for number, at in enumerate(arrivals):
        due = number - per_second * at
        least = min(least, due)
        worst = max(worst, due + 1 - least)
    return worst - rate.burst


def overtaken(arrivals: Mapping[int, float], slack_s: float) -> list[int]:
    """The numbers of requests that came, by more than the slack, after one with a higher number."""
    late, first = [], float("inf")
    for number in sorted(arrivals, reverse=True):
        if arrivals[number] > first + slack_s:
            late.append(number)
        first = min(first, arrivals[number])
    return late[::-1]
