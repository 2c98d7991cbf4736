"""Limits of client connections: their number, their number per address, and their age."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.proxy.downstream.connection_limits import GRACE_S, ConnectionLimits
from tests.support.stage import Stage, StartStage

CALL = b"GET /items HTTP/1.1\r\nHost: api.test\r\nX-Api-Key: acme\r\n\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(open_now: Stage) -> Streams:
    return await asyncio.open_connection("127.0.0.1", open_now.app.data_port.port)


async def answer(streams: Streams) -> bytes:
    streams[1].write(CALL)
    async with asyncio.timeout(10):
        return await streams[0].readuntil(b"\r\n\r\nok")


async def is_closed(streams: Streams) -> bool:
    """Whether the connection is closed or reset without a response."""
    async with asyncio.timeout(10):
        try:
            return await streams[0].read() == b""
        except ConnectionError:
            return True
        finally:
            streams[1].close()


def refused(open_now: Stage, reason: str) -> float | None:
    name = "sidecar_connections_refused_total"
    return open_now.app.metrics.registry.get_sample_value(name, {"reason": reason})


@pytest.mark.parametrize(
    ("flags", "reason"),
    [({"max_connections": "2"}, "full"), ({"max_connections_per_address": "2"}, "address")],
)
async def test_I9_connections_beyond_the_limit_are_closed_at_once_and_counted(
    stage: StartStage, flags: dict[str, str], reason: str
) -> None:
    open_now = await stage(**flags)
    first, second = await connect(open_now), await connect(open_now)
    assert b" 200 OK" in await answer(first)
    assert b" 200 OK" in await answer(second)
    assert await is_closed(await connect(open_now))
    assert refused(open_now, reason) == 1
    first[1].close()
    async with asyncio.timeout(10):
        while open_now.app.data_port.connections > 1:
            await asyncio.sleep(0.01)
    third = await connect(open_now)
    assert b" 200 OK" in await answer(third)
    for _, writer in (second, third):
        writer.close()


async def test_an_expired_connection_closes_with_its_next_response(stage: StartStage) -> None:
    open_now = await stage(max_connection_age_s="0.3", quota=1_000_000)
    streams = await connect(open_now)
    answers = []
    async with asyncio.timeout(10):
        while not answers or b"Connection: close" not in answers[-1]:
            answers.append(await answer(streams))
    assert len(answers) > 1
    assert b"Connection: close" not in answers[0]
    assert await is_closed(streams)


async def test_an_expired_idle_connection_is_closed(stage: StartStage) -> None:
    open_now = await stage(max_connection_age_s="0.2")
    streams = await connect(open_now)
    assert b"Connection: close" not in await answer(streams)
    assert await is_closed(streams)


async def test_without_a_maximum_age_no_connection_expires(stage: StartStage) -> None:
    open_now = await stage()
    streams = await connect(open_now)
    for _ in range(20):
        assert b"Connection: close" not in await answer(streams)
    streams[1].close()


def test_maximum_ages_are_spread_by_a_tenth() -> None:
    ends = {-1: 90.0, 1: 110.0}
    for side, end in ends.items():
        limits: ConnectionLimits[int] = ConnectionLimits(
            10, max_age=100, uniform=lambda low, high, side=side: low if side < 0 else high
        )
        assert limits.take(1, ("10.0.0.1", 1), now=0.0)
        assert not limits.is_expired(1, end - 0.001)
        assert limits.is_expired(1, end + 0.001)
        # A busy client gets its last response before; an idle connection is closed.
        assert not limits.is_overdue(1, end + 0.001)
        assert limits.is_overdue(1, end + GRACE_S + 0.001)
    assert not limits.is_expired(2, 1e9)  # not open_now


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_an_ipv6_network_is_one_address(one: str, other: str, same: bool) -> None:
    limits: ConnectionLimits[int] = ConnectionLimits(10, per_address=1)
    assert limits.take(1, (one, 1), 0.0)
    assert limits.take(2, (other, 2), 0.0) is not same


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 2)), max_size=60),
    st.integers(1, 4),
    st.integers(0, 3),
)
def test_I9_no_order_of_take_and_free_exceeds_a_limit_or_loses_a_slot(
    steps: list[tuple[bool, int, int]], max_connections: int, per_address: int
) -> None:
    limits: ConnectionLimits[int] = ConnectionLimits(max_connections, per_address=per_address)
    open_now: dict[int, int] = {}
    for opens, connection, host in steps:
        if opens and connection not in open_now:
            taken = Counter(open_now.values())[host]
            free = len(open_now) < max_connections and (not per_address or taken < per_address)
            assert limits.take(connection, (f"10.0.0.{host}", 1), 0.0) is free
            if free:
                open_now[connection] = host
        elif not opens:
            limits.free(connection)
            open_now.pop(connection, None)
        assert len(limits) == len(open_now) <= max_connections
        assert set(limits.all()) == set(open_now)


def test_a_connection_that_ends_for_another_frees_its_slot_of_the_address() -> None:
    ended: list[str] = []
    limits = ConnectionLimits[str](10, per_address=2, evict=ended.append)
    peer = ("192.0.2.1", 1)
    for name in ("a", "b"):
        assert limits.take(name, peer, 0.0)
        limits.watch(name)
    assert limits.take("c", peer, 0.0)
    assert ended == ["a"]
    for name in ("a", "b", "c"):
        limits.free(name)
    assert [limits.take(name, peer, 0.0) for name in ("d", "e", "f")] == [True, True, False]
