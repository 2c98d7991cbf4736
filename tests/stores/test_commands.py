"""The arguments of script commands: TTLs, bounds of periods, and what is forced."""

from datetime import UTC, datetime
from typing import Any

import hiredis
import pytest

from sidecar.core.kinds import MICRO, ConcurrencyLimit, Limit
from sidecar.core.model import Account, Claim
from sidecar.core.periods import Window
from sidecar.stores.commands import Commands, period_start, ttl_ms
from sidecar.stores.scripts import load
from tests.support.builders import a_quota, a_rate

ACME = Account("acme", "pro")
NOW_US = int(datetime(2026, 11, 24, tzinfo=UTC).timestamp()) * MICRO
DAY_MS = 86_400_000
MONTH, RATE, SLOT = a_quota(9), a_rate(9), ConcurrencyLimit("in-flight", 1)


def arguments(limit: Limit, *, forced: bool) -> list[Any]:
    """The parts of a command with one claim."""
    reader = hiredis.Reader()
    claim = Claim(limit, 1, forced)
    reader.feed(Commands("qs").claims(load("limits/reserve"), ACME, "k1", [claim], NOW_US))
    parts = reader.gets()
    assert isinstance(parts, list)
    return parts


@pytest.mark.parametrize(
    ("limits", "least_ms"),
    [
        ((MONTH,), (31 + 35) * DAY_MS),
        ((RATE, MONTH), (31 + 35) * DAY_MS),
        ((MONTH, RATE), (31 + 35) * DAY_MS),
        ((RATE, SLOT), 35 * DAY_MS),
        ((a_quota(9, period="day"),), (1 + 35) * DAY_MS),
    ],
    ids=["month", "rate first", "rate last", "slot", "day"],
)
def test_I9_a_state_is_kept_as_long_as_its_longest_limit_needs(
    limits: tuple[Limit, ...], least_ms: int
) -> None:
    ttl = ttl_ms([Claim(limit, 1, False) for limit in limits])
    assert least_ms <= ttl <= least_ms + DAY_MS


def test_a_period_begins_at_the_end_of_the_one_before() -> None:
    window = Window(10, 20, 30, 0)
    assert [period_start(window, at) for at in (10, 19, 20, 29)] == [10, 10, 20, 20]


def test_the_bounds_of_periods_are_computed_again_at_the_end_of_a_period() -> None:
    commands = Commands("qs")
    first = commands.window(MONTH, ACME, NOW_US)
    assert commands.window(MONTH, ACME, first.end - 1) == first
    assert commands.window(MONTH, ACME, 0) == first  # the instant is not known
    assert commands.window(MONTH, ACME, first.end).start == first.end


@pytest.mark.parametrize(
    ("limit", "forced", "expected"),
    [
        (MONTH, False, b"0"),
        (MONTH, True, b"1"),
        (a_quota(9, shadow=True), False, b"1"),
        (a_rate(9, shadow=True), False, b"2"),
        (a_rate(9, shadow=True), True, b"1"),
    ],
)
def test_a_rate_in_shadow_is_not_counted_where_it_does_not_fit(
    limit: Limit, forced: bool, expected: bytes
) -> None:
    parts = arguments(limit, forced=forced)
    kind = parts.index(limit.kind.name.encode())
    assert parts[kind + 2] == expected
