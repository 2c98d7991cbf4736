"""Small texts with a meaning: rates, quotas, percentages."""

import re
from math import gcd
from typing import Final, Literal, cast

from sidecar.core.json_path import JsonPath
from sidecar.core.model import MICRO, MOST_UNITS, UNBOUNDED, PeriodUnit

WINDOWS_US: Final = {
    "s": MICRO,
    "min": 60 * MICRO,
    "h": 3_600 * MICRO,
    "day": 86_400 * MICRO,
}
PERIODS: Final = ("hour", "day", "week", "month", "cycle")
MAX_UNITS: Final = UNBOUNDED // 1_000
_NUMBER: Final = r"([0-9][0-9_]{0,18})"


def rate(text: object) -> tuple[int, int]:
    """`5/s` → (units, window in µs). Raises ValueError with a remedy."""
    found = re.fullmatch(_NUMBER + r"/(s|min|h|day)", str(text))
    units = int(found[1].replace("_", "")) if found else 0
    if found is None or not 0 < units <= MAX_UNITS:
        raise ValueError(f'"{text}" is not a rate; write it like 5/s, 100/min, 1000/h or 7/day')
    return units, WINDOWS_US[found[2]]


def refill(units: int, window_us: int) -> tuple[int, int]:
    """A rate as micro-units per µs, reduced."""
    micro = units * MICRO
    common = gcd(micro, window_us)
    return micro // common, window_us // common


def exact(burst: int, refill: tuple[int, int]) -> bool:
    """Whether Redis' Lua computes this bucket without rounding."""
    return burst * MICRO * refill[1] + refill[0] < 2**53


def quota(text: object) -> tuple[int, PeriodUnit]:
    """`1_000_000/cycle` → (units, period). Raises ValueError with a remedy."""
    found = re.fullmatch(_NUMBER + r"/(hour|day|week|month|cycle)", str(text))
    units = int(found[1].replace("_", "")) if found else 0
    if found is None or not 0 < units <= MAX_UNITS:
        raise ValueError(
            f'"{text}" is not a quota; write it like 1000/month ({", ".join(PERIODS)})'
        )
    return units, cast("PeriodUnit", found[2])


def cost(value: object) -> int | Literal["reserve"]:
    """Units, or the word `reserve`. Raises ValueError with a remedy."""
    if value == "reserve":
        return "reserve"
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_UNITS:
        shown = "this" if isinstance(value, dict | list) else f'"{value}"'
        raise ValueError(
            f"{shown} is not a cost; write a whole number from 0 to {MOST_UNITS:_}, or reserve "
            "for a meter that has it"
        )
    return value


def json_path(text: str) -> str:
    """`usage.total_tokens`, unchanged. Raises ValueError with a remedy."""
    return JsonPath.parse(text).text


def percent(text: object) -> int:
    """`80%` → 80. Raises ValueError with a remedy."""
    found = re.fullmatch(r"([1-9][0-9]{0,3})%", str(text))
    if found is None or int(found[1]) > 1_000:
        raise ValueError(f'"{text}" is not a percentage; write it like 80%, from 1% to 1000%')
    return int(found[1])
