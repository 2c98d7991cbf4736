"""The Lua scripts against the pure reference, at instants that the test chooses.

The scripts read Redis' clock through `now_us()`; for these tests only, that function is replaced
in the script's text by one that reads a key, because no server lets a client set its clock.
"""

from collections.abc import Iterator

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.core.limits import EMPTY, State, reserve
from sidecar.core.model import MICRO, Claim, QuotaLimit, RateLimit
from sidecar.stores.scripts import load

HOUR = 3_600 * MICRO
START = 1_790_000_000 * MICRO // HOUR * HOUR


@pytest.fixture
def client(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url, decode_responses=True) as connection:
        yield connection


def on_clock(name: str) -> str:
    text = load(name).text.decode()
    clock = (
        "local function now_us()\n  return tonumber(redis.call('GET', 'clock'))\nend\n"
        "local function real_now_us()"
    )
    assert "local function now_us()" in text
    return text.replace("local function now_us()", clock)


def arguments(claims: list[Claim], bounds: list[tuple[int, int, int] | None]) -> list[object]:
    out: list[object] = [60_000_000]
    for number, (claim, window) in enumerate(zip(claims, bounds, strict=True)):
        limit = claim.limit
        if isinstance(limit, QuotaLimit):
            assert window is not None
            out += ["quota", f"f{number}", claim.cost, int(claim.forced), limit.cap, *window]
        else:
            cost, cap = claim.cost * MICRO, limit.burst * MICRO
            out += ["rate", f"f{number}", cost, int(claim.forced), cap, *limit.refill, 0]
    return out


RATES = st.builds(
    lambda refill, burst: RateLimit("r", "requests", 1, MICRO, burst, refill),
    st.sampled_from([(5, 1), (5, 3), (5, 18), (7, 86_400), (1000, 1), (1, 1)]),
    st.integers(1, 1000),
)
QUOTAS = st.builds(lambda cap: QuotaLimit("q", "requests", cap, "hour", cap), st.integers(1, 50))
CLAIMS = st.lists(
    st.builds(Claim, st.one_of(RATES, QUOTAS), st.integers(0, 12), st.booleans()),
    min_size=1,
    max_size=4,
)
STEPS = st.lists(st.integers(-HOUR // 2, HOUR // 2) | st.integers(0, 3 * MICRO), max_size=25)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(claims=CLAIMS, steps=STEPS)
def test_I1_the_script_and_the_reference_agree_at_every_instant(
    client: redis.Redis, claims: list[Claim], steps: list[int]
) -> None:
    client.flushdb()
    script, peek = on_clock("reserve"), on_clock("peek")
    now, states = START, [EMPTY] * len(claims)
    for step in [0, *steps]:
        now += step
        start = now // HOUR * HOUR
        bounds = [
            (start, start + HOUR, start + 2 * HOUR) if isinstance(c.limit, QuotaLimit) else None
            for c in claims
        ]
        client.set("clock", now)
        argv = arguments(claims, bounds)
        before = client.hgetall("state")
        looked = client.eval(peek, 1, "state", *argv)
        assert client.hgetall("state") == before, "peek changes nothing"
        reply = client.eval(script, 1, "state", *argv)
        answer, states = reserve(states, claims, bounds, now)
        assert looked[0] == reply[0] == int(answer.granted)
        assert reply[1] == now
        assert tuple(reply[2::2]) == answer.used
        assert tuple(reply[3::2]) == answer.ends_us
        if not answer.granted:
            assert client.hgetall("state") == before, "a refusal changes nothing"
        for claim, used in zip(claims, answer.used, strict=True):
            if not claim.forced and answer.granted:
                limit = claim.limit
                cap = limit.cap if isinstance(limit, QuotaLimit) else limit.burst * MICRO
                assert used <= cap


def test_I8_a_clock_that_steps_back_grants_nothing(client: redis.Redis) -> None:
    claim = Claim(RateLimit("r", "requests", 1, MICRO, 2, (1, 1)), 1, False)
    script = on_clock("reserve")

    def at(now: int) -> int:
        client.set("clock", now)
        return int(client.eval(script, 1, "state", *arguments([claim], [None]))[0])

    assert [at(START), at(START)] == [1, 1]
    assert at(START - HOUR) == 0
    assert at(START) == 0
    assert at(START + MICRO) == 1
    assert at(START + MICRO) == 0


def test_a_script_tells_when_the_period_bounds_do_not_hold_now(client: redis.Redis) -> None:
    claim = Claim(QuotaLimit("q", "requests", 5, "hour", 5), 1, False)
    client.set("clock", START + 3 * HOUR)
    argv = arguments([claim], [(START, START + HOUR, START + 2 * HOUR)])
    assert client.eval(on_clock("reserve"), 1, "state", *argv) == [-1, START + 3 * HOUR]
    assert not client.exists("state")


def test_the_reference_forgets_a_bucket_that_is_full_again() -> None:
    limit = RateLimit("r", "requests", 5, MICRO, 10, (5, 1))
    answer, after = reserve([State(5 * MICRO, 0)], [Claim(limit, 1, False)], [None], MICRO)
    assert answer.granted
    assert after == [State(1 * MICRO, MICRO)]
