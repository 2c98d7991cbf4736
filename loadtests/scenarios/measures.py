"""The arithmetic of the verdicts: pure functions of what was seen."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

from loadtests.checks import Rate

ENOUGH: Final = 20  # times of a round: fewer have no tail to speak of


def p99(times: Sequence[float]) -> float:
    """The time that one in a hundred exceeds. Raises IndexError without times."""
    return sorted(times)[int(len(times) * 0.99)]


def typical_p99(rounds: Sequence[Sequence[float]]) -> float | None:
    """The median of the rounds' p99s, so that one disturbance from outside does not decide. None
    when there are too few calls."""
    if not rounds or any(len(times) < ENOUGH for times in rounds):
        return None
    return median(p99(times) for times in rounds)


def over_rate(arrivals: Sequence[float], rate: Rate) -> float:
    """By how many calls the fullest window of any length exceeds what a limit lets through in
    it, burst + rate x window; negative when none does. Seconds, ascending; each call costs one."""
    per_second = float(rate.per_second)
    least, worst = float("inf"), float("-inf")
    for number, at in enumerate(arrivals):
        due = number - per_second * at
        least = min(least, due)
        worst = max(worst, due + 1 - least)
    return worst - rate.burst


def overtaken(arrivals: Mapping[int, float], slack_s: float) -> list[int]:
    """The numbers of calls that came, by more than the slack, after one with a higher number."""
    late, first = [], float("inf")
    for number in sorted(arrivals, reverse=True):
        if arrivals[number] > first + slack_s:
            late.append(number)
        first = min(first, arrivals[number])
    return late[::-1]
