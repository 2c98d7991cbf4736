"""Readers of short strings: rates, quotas, percentages, dates.

Each raises ValueError with what is wrong and what to write. The schema gives editors the patterns.
"""

import re
from datetime import date, datetime
from math import gcd
from typing import Final, Literal, cast, get_args

from sidecar.core.json_cost import MOST_CHOICES, Formula
from sidecar.core.kinds import MICRO, MOST_UNITS, UNBOUNDED, PeriodUnit
from sidecar.core.periods import PERIODS
from sidecar.core.settlement import Refundable
from sidecar.outbound import OutboundRefused, parse_url

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
_DURATIONS_S: Final = {"d": 86_400, "h": 3_600, "m": 60}
WAIT_PATTERN: Final = r"^([1-9][0-9]{0,5})(ms|s|m)$"
_WAITS_US: Final = {"ms": 1_000, "s": MICRO, "m": 60 * MICRO}
MAX_WAIT_US: Final = 300 * MICRO
SHARE_PATTERN: Final = r"^([1-9][0-9]?|100)%$"
PERCENT_PATTERN: Final = r"^(0|[1-9][0-9]*)%$"
STATUS_PATTERN: Final = r"^[45][0-9]{2}$"
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOST_DIGITS: Final = 30  # a longer number is too large for every value here
_MOST_CHARACTERS: Final = 80
_VARIABLE: Final = re.compile(r"\$\{[^{}]*\}|\{\{.*\}\}")
NOT_EXPANDED: Final = (
    "has a variable, and the plan file does not replace variables; write the value, or replace "
    "it before, for example with envsubst"
)


def has_variable(text: str) -> bool:
    """Whether a template was not filled in: `${QUOTA}` or `{{ .Values.quota }}`."""
    return bool(_VARIABLE.search(text))


def quoted(value: object) -> str:
    """A value for a message: in quotes, printable, cut if it is long.

    It is "this" for a value that would look different from what the file has: null, booleans,
    lists and mappings.
    """
    if value is None or isinstance(value, bool | dict | list):
        return "this"
    return f'"{printable(str(value))}"'


def printable(text: str) -> str:
    """One line without control characters, of about 80 characters at most."""
    if len(text) > _MOST_CHARACTERS:
        text = f"{text[: _MOST_CHARACTERS - 1]}…"
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def rate(text: object) -> tuple[int, int]:
    """`5/s` → (units, window in µs)."""
    match = re.fullmatch(RATE_PATTERN, str(text))
    if match is None:
        raise ValueError(
            f"{quoted(text)} is not a rate; write it like 5/s, 100/min, 1000/h or 7/day"
        )
    return _units(match, f"/{match[2]}"), WINDOWS_US[match[2]]


def quota(text: object) -> tuple[int, PeriodUnit]:
    """`1_000_000/cycle` → (units, period)."""
    match = re.fullmatch(QUOTA_PATTERN, str(text))
    if match is None:
        raise ValueError(
            f"{quoted(text)} is not a quota; write it like 1000/month ({', '.join(PERIODS)}), "
            "or 100/90s for seconds"
        )
    period = match[2]
    if period not in PERIODS and int(period[:-1]) > MAX_PERIOD_S:
        raise ValueError(
            f"{quoted(text)} has a period that is too long; write at most {MAX_PERIOD_S}s"
        )
    return _units(match, f"/{match[2]}"), cast("PeriodUnit", match[2])


def percent(text: object) -> int:
    """`80%` → 80."""
    match = re.fullmatch(PERCENT_PATTERN, str(text))
    if match is None:
        raise ValueError(f"{quoted(text)} is not a percentage; write it like 80%, from 1% to 1000%")
    return _units(match, "%", MAX_PERCENT)


def refund(word: object) -> str:
    """An outcome, or a status of the API from 400 to 599: `429`, `4xx`."""
    text = str(word)
    if not isinstance(word, bool) and re.fullmatch(STATUS_PATTERN, text):
        return text
    if text in ("4xx", "5xx"):
        return f"upstream_{text}"
    if word not in get_args(Refundable):
        choices = ", ".join(get_args(Refundable))
        raise ValueError(
            f"{quoted(word)} is not an outcome; write a status like 429, or one of: {choices}"
        )
    return text


def share(text: object) -> int:
    """`40%` → 40. A share is under an account, so the message does not repeat it."""
    if not isinstance(text, str) or not re.fullmatch(SHARE_PATTERN, text):
        raise ValueError("is not a share; write it like 40%, from 1% to 100%")
    return int(text[:-1])


def rollover(text: object) -> int:
    """`up to 20%` → 20."""
    match = re.fullmatch(ROLLOVER_PATTERN, str(text))
    if match is None:
        raise ValueError(f"{quoted(text)} is not a share; write it like up to 20%")
    return percent(match[1])


def lasts(text: object) -> str | int:
    """How long a pack lasts.

    A period such as `cycle` is returned unchanged, and `30d` in seconds, as `2592000s`.
    `2026-12-31` is the end of that day in UTC, in µs since the epoch.
    """
    if isinstance(text, date) and not isinstance(text, datetime):
        text = text.isoformat()
    match = re.fullmatch(LASTS_PATTERN, str(text))
    if match is None:
        raise ValueError(
            f"{quoted(text)} is not a period or duration; write one of {', '.join(PERIODS)}, "
            "a duration like 30d, 12h or 90m, or the last day, like 2026-12-31"
        )
    span = match[1]
    if span in PERIODS:
        return span
    if span[-1] in _DURATIONS_S:
        return f"{int(span[:-1]) * _DURATIONS_S[span[-1]]}s"
    try:
        last = date.fromisoformat(span)
    except ValueError:
        raise ValueError(
            f"{quoted(text)} is not a date that exists; write one like 2026-12-31"
        ) from None
    return (last - date(1970, 1, 1)).days * 86_400 * MICRO + 86_400 * MICRO


def max_wait(text: object) -> int:
    """`2s` → µs. Raises ValueError also beyond 300 s."""
    match = re.fullmatch(WAIT_PATTERN, str(text))
    if match is None:
        raise ValueError(f"{quoted(text)} is not a duration; write it like 2s or 500ms")
    wait_us = int(match[1]) * _WAITS_US[match[2]]
    if wait_us > MAX_WAIT_US:
        raise ValueError(f"{quoted(text)} is too long; write at most {MAX_WAIT_US // MICRO}s")
    return wait_us


def _units(match: re.Match[str], unit: str, most: int = MAX_UNITS) -> int:
    digits = match[1].replace("_", "")
    units = int(digits) if len(digits) <= _MOST_DIGITS else most + 1
    if units > most:
        raise ValueError(f"{quoted(match[0])} is too large; write at most {most:_}{unit}")
    if units == 0:
        raise ValueError(f"{quoted(match[0])} is zero; write at least 1{unit}")
    return units


def refill(units: int, window_us: int) -> tuple[int, int]:
    """A rate as micro-units per µs, reduced."""
    micro = units * MICRO
    common = gcd(micro, window_us)
    return micro // common, window_us // common


def exact(burst: int, refill: tuple[int, int]) -> bool:
    """Whether the Lua scripts can compute this token bucket without rounding."""
    return burst * MICRO * refill[1] + refill[0] < 2**53


def cost(value: object) -> int | Literal["reserve"]:
    """A whole number of units, or the word `reserve`."""
    if value == "reserve":
        return "reserve"
    if isinstance(value, int) and not isinstance(value, bool):
        if value > MOST_UNITS:
            raise ValueError(f"{quoted(value)} is too large; write at most {MOST_UNITS:_}")
        if value >= 0:
            return value
    raise ValueError(
        f"{quoted(value)} is not a cost; write a whole number from 0 to {MOST_UNITS:_}, or reserve "
        "if the meter has a reserve"
    )


def formulas(value: object) -> tuple[str, ...]:
    """One sum of paths into JSON, such as `usage.total_tokens`, or a list of them."""
    texts = value if isinstance(value, list | tuple) and value else (value,)
    if len(texts) > MOST_CHOICES:
        raise ValueError(f"has {len(texts)} paths; write at most {MOST_CHOICES}")
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{quoted(text)} is not a path into JSON; write it like a.b")
        try:
            Formula.parse([text])
        except ValueError as error:
            raise ValueError(str(error).replace(f'"{text}"', quoted(text))) from None
    return tuple(texts)


def day(value: object) -> date:
    """A calendar day. It is under an account, so the message does not repeat it."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    if not isinstance(value, str) or not _DAY.fullmatch(value):
        raise ValueError("is not a date; write one like 2026-01-15")
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise ValueError("is not a date that exists; write one like 2026-01-15") from None


def webhook(text: str) -> None:
    """Check the form of a webhook's URL. The message does not repeat it: it may have a secret."""
    try:
        parse_url(text)
    except OutboundRefused as error:
        raise ValueError(
            f"is not a webhook URL: {error}; write it like https://HOST/PATH"
        ) from None


_BRACES: Final = re.compile(r"\{[^{}]*\}|[{}]")


def link(text: str) -> None:
    """Check that a link has no part to be replaced."""
    braces = _BRACES.search(_VARIABLE.sub("", text))
    if braces:
        raise ValueError(f'"{braces[0]}" is not replaced in this link; remove it')


def pack_link(text: str) -> None:
    """Check that `{pack}` is the only part of a link to be replaced."""
    braces = _BRACES.search(_VARIABLE.sub("", text).replace("{pack}", ""))
    if braces:
        raise ValueError(f'"{braces[0]}" is not replaced; write {{pack}} for the id of the pack')
