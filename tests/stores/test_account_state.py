"""An account's state is read as the scripts write it, and invalid fields are reported."""

import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.answers import Hold
from sidecar.core.counting.counters import State
from sidecar.core.counting.counts import counts_of
from sidecar.core.counting.limits import Grant
from sidecar.core.kinds import MICRO, ConcurrencyLimit, QuotaLimit, RateLimit
from sidecar.core.model import Account, Claim
from sidecar.errors import StoreUnavailable
from sidecar.stores import keys
from sidecar.stores.account_state import read_account
from sidecar.stores.inspector import Inspector
from tests.support.stores.account_replay import ACME, HOUR, START, Both

QUOTA = QuotaLimit("q0", "requests", 5, "hour", 90, (50,), rollover=2)
RATE = RateLimit("r0", "requests", 1, MICRO, 50, (1, 1))
SLOTS = ConcurrencyLimit("c0", 4)
CLAIMS = [Claim(QUOTA, 7, False), Claim(RATE, 3, False), Claim(SLOTS, 1, False)]


@pytest.fixture
def client(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url, decode_responses=False) as connection:
        yield connection


def test_the_state_is_read_as_the_scripts_write_it(client: redis.Redis, valkey_url: str) -> None:
    both = Both(client)
    both.grant(Grant("g1", "q/q0", 9, START + 3 * HOUR, -1))
    both.reserve(CLAIMS, Hold("a", 60 * MICRO, "release"))
    both.reserve(CLAIMS[:1], Hold("b", 60 * MICRO, "charge"))
    both.settle("a", CLAIMS)
    both.reserve(CLAIMS, Hold("c", 60 * MICRO, "charge"))
    both.rebuild([Claim(QUOTA, 4, forced=True)], less=0, stale=False)
    with Inspector(valkey_url, "qs") as inspector:
        held = inspector.read(ACME.id)
        assert held.state == replace(both.ledger, rebuilt=0)
        assert held.rebuilt == str(both.ledger.rebuilt)
        assert (dict(held.problems), held.state.opened.keys()) == ({}, {"b", "c"})


def test_an_unknown_account_is_empty(valkey_url: str) -> None:
    with Inspector(valkey_url, "qs") as inspector:
        held = inspector.read("nobody")
        assert (held.state.states, held.rebuilt, held.problems) == ({}, "0", {})
        assert inspector.record("nobody") is None
        assert list(inspector.accounts()) == []


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("q/monthly", b"", "a limit's state must have 88 bytes, not 0"),
        ("r/burst", struct.pack("<11d", *[0] * 11), "a limit's state must have 48 bytes, not 88"),
        ("q/monthly", struct.pack("<11d", *[0] * 7, -1, 0, 0, 0), "-1.0 is not a number of units"),
        ("q/monthly", b"x" * 33, "not 33"),
        ("q/monthly", struct.pack("<6d", 1, 0, 0, 0, -1, 0), "-1.0 is not a number of units"),
        ("q/monthly", struct.pack("<4d", -1, 0, 0, 0), "-1.0 is not a number of units"),
        ("q/monthly", struct.pack("<4d", 1.5, 0, 0, 0), "1.5 is not a number of units"),
        ("r/burst", struct.pack("<4d", float("nan"), 0, 0, 0), "nan is not a number of units"),
        ("c/slots", struct.pack("<4d", 2.0**60, 0, 0, 0), "is not a number of units"),
        ("grants", b"g1\tq/q0\t1\n", "line 1 is not a grant"),
        ("grants", b"\xff", "'utf-8' codec can't decode"),
        ("grants", b"g1\tq/q0\t1\t0\t9\t0", "the last line is incomplete"),
        ("o/x", b"keep\n", "not an open reservation"),
        ("o/x", b"", "not an open reservation"),
        ("o/x", b"charge\nquota\tq/q0\t1\n", "line 2 is not a charge"),
        ("o/x", b"charge\nquota\tq/q0\t1\t1\t-2\t9\n", "line 2 is not a charge"),
        ("rebuilt", b"yesterday", "not an instant"),
    ],
)
def test_an_invalid_field_is_reported_and_hides_no_others(
    field: str, value: bytes, problem: str
) -> None:
    good = {b"q/other": struct.pack("<4d", 3, START, 0, 0), b"kept": b"17"}
    held = read_account({field.encode(): value, **good}, {})
    assert problem in held.problems[field]
    assert held.state.states["q/other"].used == 3


@given(
    st.dictionaries(
        st.sampled_from([b"grants", b"q/a", b"r/a/k", b"o/x", b"rebuilt", b"kept", b"j/x"])
        | st.binary(max_size=9),
        st.binary(max_size=40),
    ),
    st.dictionaries(st.binary(max_size=5), st.floats()),
)
def test_reading_never_raises_whatever_redis_has(
    fields: dict[bytes, bytes], leases: dict[bytes, float]
) -> None:
    read_account(fields, leases)


NAMES = ["acme", "we{ir}d", "50%7B", "a:state", "anonymous/192.0.2.1", "ünïcode"]


def test_all_accounts_with_a_state_are_found_and_no_others(
    client: redis.Redis, valkey_url: str
) -> None:
    for prefix in ("qs", "q*"):
        for name in NAMES:
            client.hset(keys.state(prefix, name), "kept", 1)
            client.zadd(keys.leases(prefix, name), {"x": 1})
    for prefix in ("qs", "q*"):
        with Inspector(valkey_url, prefix) as inspector:
            assert sorted(inspector.accounts()) == sorted(NAMES)


def test_an_accounts_record_and_the_last_charged_entry_are_read(
    client: redis.Redis, valkey_url: str
) -> None:
    client.hset(keys.account("qs", "acme"), mapping={"plan": "pro", "timezone": "Europe/Paris"})
    client.set(keys.charged("qs", "acme", "0a", "k1"), 17)
    with Inspector(valkey_url, "qs") as inspector:
        assert inspector.record("acme") == Account("acme", "pro", "Europe/Paris")
        assert inspector.charged("acme", "0a", "k1") == 17
        assert inspector.charged("acme", "0a", "k2") == 0


def test_an_unavailable_redis_is_an_error(valkey_url: str) -> None:
    unavailable = pytest.raises(
        StoreUnavailable, match=r"127\.0\.0\.1:1 refuses connections; start it"
    )
    with unavailable, Inspector("redis://127.0.0.1:1/0", "qs") as inspector:
        inspector.now_us()


def test_a_redis_key_of_another_type_is_an_error(client: redis.Redis, valkey_url: str) -> None:
    client.set(keys.state("qs", "acme"), "not a hash")
    unavailable = pytest.raises(StoreUnavailable, match="WRONGTYPE")
    with unavailable, Inspector(valkey_url, "qs") as inspector:
        inspector.read("acme")


def test_a_state_of_an_earlier_version_is_read_and_goes_on(client: redis.Redis) -> None:
    both = Both(client)
    client.hset(keys.state("qs", ACME.id), "q/q0", struct.pack("<4d", 4, START, 50, 2))
    earlier = State(4, START, 50, 2, settled=4)
    both.ledger = replace(both.ledger, states={"q/q0": earlier})
    assert both.counters() == {"q/q0": earlier}
    both.reserve([Claim(QUOTA, 1, False)])
    assert both.counters() == both.ledger.states
    after = State(5, START, 50, 2, START + HOUR, counts_of(QUOTA), settled=5)
    assert both.ledger.states["q/q0"] == after
