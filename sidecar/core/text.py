"""Numbers, units and instants as text for people."""

from datetime import UTC, datetime
from typing import Final

from sidecar.core.costs import Meter
from sidecar.core.kinds import MICRO, Limit, PeriodUnit, RateLimit

_ADJECTIVES: Final[dict[PeriodUnit, str]] = {
    "hour": "Hourly",
    "day": "Daily",
    "week": "Weekly",
    "month": "Monthly",
    "cycle": "Billing cycle",
}
_NOW: Final[dict[PeriodUnit, str]] = {
    "hour": "this hour",
    "day": "today",
    "week": "this week",
    "month": "this month",
    "cycle": "this billing cycle",
}
_WINDOWS: Final = {
    MICRO: "second",
    60 * MICRO: "minute",
    3_600 * MICRO: "hour",
    86_400 * MICRO: "day",
}


def instant(at_us: int) -> str:
    """Return an instant in RFC 3339, in UTC, rounded up to the second: it is never too early."""
    return datetime.fromtimestamp(-(-at_us // MICRO), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(at_us: int) -> str:
    """Return an instant that was measured, in RFC 3339, in UTC, to the millisecond."""
    when = datetime.fromtimestamp(at_us // MICRO, UTC)
    return f"{when:%Y-%m-%dT%H:%M:%S}.{at_us // 1000 % 1000:03}Z"


def amount(count: int, unit: str) -> str:
    """Return for example "1 request" or "1,000 requests"."""
    return f"{count:,} {unit if count == 1 else plural(unit)}"


def one_line(text: str) -> str:
    """The text with control characters escaped, except tabs: one line, as it looks."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\t" else repr(char)[1:-1] for char in text
    )


def plural(unit: str) -> str:
    """Return the English plural of a unit, by the regular rules."""
    if unit.endswith(("s", "x", "ch", "sh")):
        return unit + "es"
    if unit.endswith("y") and unit[-2:-1] not in "aeiou":
        return unit[:-1] + "ies"
    return unit + "s"


def unit_of(meters: dict[str, Meter], limit: Limit) -> str:
    """Return the unit in which a limit counts, in the singular."""
    meter = meters.get(limit.meter)
    return meter.unit if meter is not None else "request"


def adjective(period: PeriodUnit) -> str:
    """Return for example "Monthly", or "90 second" for a period in seconds."""
    return _ADJECTIVES.get(period) or f"{period[:-1]} second"


def current(period: PeriodUnit) -> str:
    """Return for example "this month"."""
    return _NOW.get(period) or f"in these {span(int(period[:-1]))}"


def speed(limit: RateLimit, unit: str) -> str:
    """Return for example "5 requests per second"."""
    window = _WINDOWS.get(limit.window_us)
    if window is None:
        seconds, rest = divmod(limit.window_us, MICRO)
        window = f"{-(-limit.window_us // 1000)} ms" if rest else f"{seconds} seconds"
    return f"{amount(limit.units, unit)} per {window}"


def span(seconds: int) -> str:
    """Return for example "90 seconds"."""
    return amount(seconds, "second")
