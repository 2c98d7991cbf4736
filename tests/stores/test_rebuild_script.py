"""rebuild.lua matches its header, and adds units without losing or doubling any."""

import struct
from collections.abc import Iterator

import pytest
import redis

from sidecar.core.counting.corrections import NOT_KNOWN
from sidecar.core.counting.counts import counts_of
from sidecar.core.counting.limits import Grant
from sidecar.core.kinds import MICRO, QuotaLimit
from sidecar.core.model import Claim
from sidecar.core.periods import bounds
from sidecar.stores import keys
from sidecar.stores.rebuild import CHANGED_AT_ONCE, Change, arguments, rebuild
from sidecar.stores.scripts import ClaimNumbers, read_state
from tests.support.stores.account_replay import ACME, HOUR, START, Both
from tests.support.stores.lua_headers import read_header

HOURLY = QuotaLimit("q0", "requests", 10, "hour", 12, (50, 100), rollover=2)
KEYED = QuotaLimit("q1", "requests", 100, "hour", 100, per="key")
# For tests on Redis' own clock: a month seldom ends during a test.
MONTHLY = QuotaLimit("q0", "requests", 10, "month", 12)
MONTHLY_KEYED = QuotaLimit("q1", "requests", 100, "month", 100, per="key")
STATE = keys.state("qs", ACME.id)


@pytest.fixture
def client(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url, decode_responses=False) as connection:
        yield connection


def used(client: redis.Redis, field: str = "q/q0") -> int:
    packed = client.hget(STATE, field)
    assert isinstance(packed, bytes)
    return read_state(packed)[0]


def this_month(client: redis.Redis) -> tuple[int, int]:
    """Redis time, and the start of its month."""
    seconds, micros = client.time()  # type: ignore[misc]
    now = int(seconds * MICRO + micros)
    return now, bounds("month", ACME.timezone, None, now)[0]


def claim(units: int) -> list[Claim]:
    return [Claim(HOURLY, units, forced=True)]


def test_the_arguments_are_those_of_the_header() -> None:
    header = read_header("rebuild")
    changes = [Change(HOURLY, None, 7, 3, START, 4), Change(KEYED, "k1", -2, 9, START)]
    ttl, count, *argv = arguments(ACME, changes, "17", START + 1)
    assert list(header.single) == ["ttl_ms", "claims"]
    assert (ttl, count, header.size) == (3_600_000 + 35 * 86_400_000, 2, 5)
    first, second = (dict(zip(header.group, argv[at : at + 5], strict=True)) for at in (0, 5))
    window = START, START + HOUR, START + 2 * HOUR, START - HOUR
    numbers = ClaimNumbers(7, 12, *window, 10, 2, counts_of(HOURLY))
    assert first == {
        "kind": "quota", "field": "q/q0", "force": 1, "numbers": numbers.packed(), "notices": "",
    }  # fmt: skip
    assert second["field"] == "q/q1/k1"
    assert list(header.tail) == ["rebuilt", "counters"]
    assert argv[10:] == ["17", struct.pack("<6d", 3, START, 4, 9, START, NOT_KNOWN)]
    assert header.statuses == {"1": "rebuilt", "0": "changed since it was read"}
    assert len(header.keys) == 1


def test_I1_requests_counted_since_the_read_stay_counted(client: redis.Redis) -> None:
    both = Both(client)
    both.reserve(claim(2))
    assert both.rebuild(claim(5), less=1, stale=False)
    assert used(client) == 7


def test_a_counter_that_fell_since_the_read_stays_unchanged(client: redis.Redis) -> None:
    both = Both(client)
    both.reserve(claim(2))
    assert not both.rebuild(claim(5), less=-1, stale=False)
    assert used(client) == 2


def test_two_rebuilds_from_one_read_count_once(client: redis.Redis) -> None:
    now, start = this_month(client)
    changes = [Change(MONTHLY, None, 5, 0, start)]
    done = rebuild(client, "qs", ACME, changes, "0", now)
    assert done.done
    assert int(done.rebuilt) >= now
    assert not rebuild(client, "qs", ACME, changes, "0", now).done
    assert used(client) == 5


def test_a_counter_in_a_later_period_stays_unchanged(client: redis.Redis) -> None:
    now, start = this_month(client)
    assert not rebuild(client, "qs", ACME, [Change(MONTHLY, None, 5, 0, start - 1)], "0", now).done
    assert not client.exists(STATE)


def test_nothing_is_subtracted_if_requests_were_counted_since_the_read(client: redis.Redis) -> None:
    both = Both(client)
    both.reserve(claim(6))
    assert not both.rebuild(claim(-2), less=1, stale=False)
    assert used(client) == 6
    assert both.rebuild(claim(-2), less=0, stale=False)
    assert used(client) == 4


def test_added_units_use_grants_as_requests_do(client: redis.Redis) -> None:
    both = Both(client)
    both.grant(Grant("g1", "q/q0", 4, START + HOUR))
    assert both.rebuild(claim(13), less=0, stale=False)
    assert used(client) == 10
    assert both.ledger.grants[0].used == 3


@pytest.mark.parametrize(
    ("reported", "next_overage"), [(0, 7), (4, 3), (6, 1), (9, 0), (NOT_KNOWN, 1)]
)
def test_I11_overage_that_no_event_has_reported_is_due(
    client: redis.Redis, reported: int, next_overage: int
) -> None:
    """10 units of 12 requests since the loss, 6 lost ones and one more: 7 are overage."""
    both = Both(client)
    both.reserve(claim(10))
    assert both.rebuild(claim(6), less=0, stale=False, reported=reported)
    assert used(client) == 16
    answer = both.reserve(claim(1))
    assert (answer.details[0].overage if answer.details else 0) == next_overage


def test_I11_overage_that_was_due_before_is_reported_once(client: redis.Redis) -> None:
    """Events reported 9 for 6 lost units: 3 of them were due of others."""
    both = Both(client)
    both.reserve(claim(10))
    both.rebuild(claim(6), less=0, stale=False, reported=9)
    answers = [both.reserve(claim(2)) for _ in range(2)]
    assert not answers[0].details, "3 are too much, 2 are used"
    assert answers[1].details[0].overage == 1


def test_I11_without_a_further_request_the_next_period_reports_what_is_due(
    client: redis.Redis,
) -> None:
    both = Both(client)
    both.reserve(claim(10))
    both.rebuild(claim(6), less=0, stale=False, reported=0)
    both.now = START + HOUR
    assert both.reserve(claim(1)).details[0].overage == 6


def test_a_threshold_is_reported_by_the_next_request(client: redis.Redis) -> None:
    both = Both(client)
    both.rebuild(claim(7), less=0, stale=False)
    answer = both.reserve(claim(1))
    assert (answer.used, answer.details[0].notified) == ((8,), 0)
    assert both.ledger.states["q/q0"].notified == 50


def test_I2_all_counters_of_an_account_change_or_none(client: redis.Redis) -> None:
    now, start = this_month(client)
    changes = [Change(MONTHLY_KEYED, "k1", 5, 0, start), Change(MONTHLY, None, 5, 9, start)]
    assert not rebuild(client, "qs", ACME, changes, "0", now).done
    assert not client.exists(STATE)


def test_any_number_of_counters_changes(client: redis.Redis) -> None:
    now, start = this_month(client)
    count = CHANGED_AT_ONCE + 1
    changes = [Change(MONTHLY_KEYED, f"k{number}", 5, 0, start) for number in range(count)]
    assert rebuild(client, "qs", ACME, changes, "0", now).done
    assert client.hlen(STATE) == count + 2  # kept, rebuilt
    assert client.pttl(STATE) > 35 * 86_400_000
