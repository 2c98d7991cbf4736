"""Small texts with a meaning: rates, quotas, percentages, days.

Each reader raises ValueError with a remedy. The patterns say the same to editors, in the schema.
"""

import re
from datetime import date, datetime
from math import gcd
from typing import Final, Literal, cast

from sidecar.core.json_path import JsonPath
from sidecar.core.model import MICRO, MOST_UNITS, UNBOUNDED, PeriodUnit
from sidecar.core.periods import PERIODS

WINDOWS_US: Final = {
    "s": MICRO,
    "min": 60 * MICRO,
    "h": 3_600 * MICRO,
    "day": 86_400 * MICRO,
}
MAX_UNITS: Final = UNBOUNDED // 1_000
MAX_PERCENT: Final = 1_000
RATE_PATTERN: Final = rf"^([0-9][0-9_]*)/({'|'.join(WINDOWS_US)})$"
QUOTA_PATTERN: Final = rf"^([0-9][0-9_]*)/({'|'.join(PERIODS)}|[1-9][0-9]{{0,8}}s)$"
MAX_PERIOD_S: Final = 366 * 86_400
ROLLOVER_PATTERN: Final = r"^(?:up to )?((?:0|[1-9][0-9]*)%)$"
LASTS_PATTERN: Final = (
    rf"^({'|'.join(PERIODS)}|[1-9][0-9]{{0,5}}[dhm]|[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})$"
)
_SPANS_S: Final = {"d": 86_400, "h": 3_600, "m": 60}
WAIT_PATTERN: Final = r"^([1-9][0-9]{0,5})(ms|s|m)$"
_WAITS_US: Final = {"ms": 1_000, "s": MICRO, "m": 60 * MICRO}
MAX_WAIT_US: Final = 300 * MICRO
SHARE_PATTERN: Final = r"^([1-9][0-9]?|100)%$"
PERCENT_PATTERN: Final = r"^(0|[1-9][0-9]*)%$"
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_LONGEST_NUMBER: Final = 30  # digits; more are too large for anything here
_SHOWN: Final = 80


def shown(value: object) -> str:
    """A value as it is repeated to people: in quotes, printable, and cut where it is long. What
    would not read as it was written is "this"."""
    if value is None or isinstance(value, bool | dict | list):
        return "this"
    return f'"{printable(str(value))}"'


def printable(text: str) -> str:
    """One line that no terminal acts on, of 80 characters or so."""
    if len(text) > _SHOWN:
        text = f"{text[: _SHOWN - 1]}…"
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def rate(text: object) -> tuple[int, int]:
    """`5/s` → (units, window in µs)."""
    found = re.fullmatch(RATE_PATTERN, str(text))
    if found is None:
        raise ValueError(
            f"{shown(text)} is not a rate; write it like 5/s, 100/min, 1000/h or 7/day"
        )
    return _units(found, f"/{found[2]}"), WINDOWS_US[found[2]]


def quota(text: object) -> tuple[int, PeriodUnit]:
    """`1_000_000/cycle` → (units, period)."""
    found = re.fullmatch(QUOTA_PATTERN, str(text))
    if found is None:
        raise ValueError(
            f"{shown(text)} is not a quota; write it like 1000/month ({', '.join(PERIODS)}), "
            "or 100/90s for seconds"
        )
    period = found[2]
    if period not in PERIODS and int(period[:-1]) > MAX_PERIOD_S:
        raise ValueError(f"{shown(text)} has too long a period; write at most {MAX_PERIOD_S}s")
    return _units(found, f"/{found[2]}"), cast("PeriodUnit", found[2])


def percent(text: object) -> int:
    """`80%` → 80."""
    found = re.fullmatch(PERCENT_PATTERN, str(text))
    if found is None:
        raise ValueError(f"{shown(text)} is not a percentage; write it like 80%, from 1% to 1000%")
    return _units(found, "%", MAX_PERCENT)


def share(text: object) -> int:
    """`40%` → 40. It stands under an account, so the value is not repeated."""
    if not isinstance(text, str) or not re.fullmatch(SHARE_PATTERN, text):
        raise ValueError("is not a share; write it like 40%, from 1% to 100%")
    return int(text[:-1])


def rollover(text: object) -> int:
    """`up to 20%` → 20."""
    found = re.fullmatch(ROLLOVER_PATTERN, str(text))
    if found is None:
        raise ValueError(f"{shown(text)} is not a share; write it like up to 20%")
    return percent(found[1])


def lasts(text: object) -> str | int:
    """`cycle` as it stands; `30d` as seconds, `2592000s`; `2026-12-31` as the end of that day in
    UTC, in µs since the epoch."""
    if isinstance(text, date) and not isinstance(text, datetime):
        text = text.isoformat()
    found = re.fullmatch(LASTS_PATTERN, str(text))
    if found is None:
        raise ValueError(
            f"{shown(text)} is no span; write a period ({', '.join(PERIODS)}), a length like "
            "30d, 12h or 90m, or the last day, like 2026-12-31"
        )
    told = found[1]
    if told in PERIODS:
        return told
    if told[-1] in _SPANS_S:
        return f"{int(told[:-1]) * _SPANS_S[told[-1]]}s"
    try:
        last = date.fromisoformat(told)
    except ValueError:
        raise ValueError(
            f"{shown(text)}: there is no such day; write one like 2026-12-31"
        ) from None
    return (last - date(1970, 1, 1)).days * 86_400 * MICRO + 86_400 * MICRO


def max_wait(text: object) -> int:
    """`2s` → µs."""
    found = re.fullmatch(WAIT_PATTERN, str(text))
    if found is None:
        raise ValueError(f"{shown(text)} is no span; write it like 2s or 500ms")
    span = int(found[1]) * _WAITS_US[found[2]]
    if span > MAX_WAIT_US:
        raise ValueError(
            f"{shown(text)} is too long to hold a call; write at most {MAX_WAIT_US // MICRO}s"
        )
    return span


def _units(found: re.Match[str], unit: str, most: int = MAX_UNITS) -> int:
    digits = found[1].replace("_", "")
    units = int(digits) if len(digits) <= _LONGEST_NUMBER else most + 1
    if units > most:
        raise ValueError(f"{shown(found[0])} is too large; write at most {most:_}{unit}")
    if units == 0:
        raise ValueError(f"{shown(found[0])} is nothing; write at least 1{unit}")
    return units


def refill(units: int, window_us: int) -> tuple[int, int]:
    """A rate as micro-units per µs, reduced."""
    micro = units * MICRO
    common = gcd(micro, window_us)
    return micro // common, window_us // common


def exact(burst: int, refill: tuple[int, int]) -> bool:
    """Whether Redis' Lua computes this bucket without rounding."""
    return burst * MICRO * refill[1] + refill[0] < 2**53


def cost(value: object) -> int | Literal["reserve"]:
    """Units, or the word `reserve`."""
    if value == "reserve":
        return "reserve"
    if isinstance(value, int) and not isinstance(value, bool):
        if value > MOST_UNITS:
            raise ValueError(f"{shown(value)} is too large; write at most {MOST_UNITS:_}")
        if value >= 0:
            return value
    raise ValueError(
        f"{shown(value)} is not a cost; write a whole number from 0 to {MOST_UNITS:_}, or reserve "
        "for a meter that has it"
    )


def json_path(text: str) -> str:
    """`usage.total_tokens`, unchanged."""
    try:
        return JsonPath.parse(text).text
    except ValueError as error:
        raise ValueError(str(error).replace(f'"{text}"', shown(text))) from None


def day(value: object) -> date:
    """A calendar day. It stands under an account, so the value is not repeated."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    if not isinstance(value, str) or not _DAY.fullmatch(value):
        raise ValueError("is not a day; write one like 2026-01-15")
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise ValueError("there is no such day; write one like 2026-01-15") from None
