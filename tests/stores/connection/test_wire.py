"""The connection to a real server: what breaks it, and what follows."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis

from sidecar.core.kinds import QuotaLimit
from sidecar.core.model import Account, Claim
from sidecar.errors import StoreUnavailable
from sidecar.stores import RedisLimitStore, Wire
from sidecar.stores.connection.link import EARLY
from sidecar.stores.connection.wire import BREAKER_TIMEOUTS, MAX_IN_FLIGHT, PING, ReplyError, encode
from tests.support.servers import free_port
from tests.support.stores.wire_ends import (
    Server,
    a_listener,
    a_server,
    a_slow_network,
    a_wire,
    until_reconnected,
    until_up,
)

ACME = Account("acme", "pro")
CLAIMS = (Claim(QuotaLimit("monthly", "requests", 100, "month", 100), 1, False),)
SENT_SEGMENTS = 156  # offset of tcpi_data_segs_out in Linux' struct tcp_info


def echo(text: object) -> bytes:
    return encode(b"ECHO", str(text))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with a_server(tmp_path) as server:
        yield server


async def break_with_timeouts(wire: Wire, server: Server) -> None:
    """Pause the server until the wire fails fast."""
    server.pause()
    for number in range(BREAKER_TIMEOUTS):
        assert wire.up
        with pytest.raises(StoreUnavailable, match="did not answer in time"):
            await wire.execute(echo(f"late-{number}"))
    assert not wire.up


async def test_a_server_that_does_not_answer_is_waited_for_a_few_times_and_then_not_at_all(
    server: Server,
) -> None:
    async with a_wire(server.url, timeout_s=0.05) as wire:
        await break_with_timeouts(wire, server)
        assert wire.timeouts >= BREAKER_TIMEOUTS
        refused = wire.execute(PING)
        assert refused.done()  # at once, without waiting for the timeout
        with pytest.raises(StoreUnavailable):
            await refused
        server.go_on()
        await until_up(wire)
        assert await wire.execute(echo("back")) == b"back"


async def test_late_replies_do_not_end_failing_fast(server: Server) -> None:
    async with (
        a_slow_network(server.port) as (network, port),
        a_wire(f"redis://127.0.0.1:{port}/0", timeout_s=0.05) as wire,
    ):
        for _ in range(BREAKER_TIMEOUTS):
            with pytest.raises(StoreUnavailable):
                await wire.execute(PING)
        hello_and_late = 1 + BREAKER_TIMEOUTS
        for probes in (2, 3):
            async with asyncio.timeout(60):
                while network.pings < hello_and_late + probes:
                    assert not wire.up  # two probes or more are late as well
                    await asyncio.sleep(0.005)
            network.pass_on(BREAKER_TIMEOUTS if probes == 2 else 1000)
        await until_up(wire)
        assert await wire.execute(PING) == b"PONG"


async def test_a_late_reply_never_reaches_another_command(server: Server) -> None:
    async with a_wire(server.url, timeout_s=0.05) as wire:
        await break_with_timeouts(wire, server)
        server.go_on()
        await until_up(wire)
        asked = 0
        async with asyncio.timeout(60):
            while asked < 200:
                try:
                    assert await wire.execute(echo(f"now-{asked}")) == b"now-%d" % asked
                except StoreUnavailable:  # the machine may be slow under load
                    await until_up(wire)
                asked += 1


async def test_a_cancelled_command_keeps_its_position(server: Server) -> None:
    async with a_wire(server.url) as wire:
        server.pause()
        futures = [wire.execute(echo(number)) for number in range(30)]
        for future in futures[::3]:
            future.cancel()
        server.go_on()
        replies = await asyncio.gather(*futures, return_exceptions=True)
    for number, reply in enumerate(replies):
        if number % 3:
            assert reply == b"%d" % number
        else:
            assert isinstance(reply, asyncio.CancelledError)


async def test_a_connection_without_replies_for_long_is_set_aside(
    server: Server,
) -> None:
    async with a_wire(server.url, timeout_s=0.05) as wire:
        await break_with_timeouts(wire, server)
        async with asyncio.timeout(60):
            while wire.reconnects == 0:
                await asyncio.sleep(0.01)
        assert not wire.up
        with pytest.raises(StoreUnavailable):
            await wire.execute(PING)
        server.go_on()
        await until_up(wire)
        assert await wire.execute(echo("anew")) == b"anew"


async def test_a_killed_server_is_connected_to_after_its_restart(server: Server) -> None:
    async with a_wire(server.url) as wire:
        store = RedisLimitStore(wire)
        for _ in range(2):
            assert (await store.reserve(ACME, "k1", CLAIMS)).used == (1,)
            server.pause()
            waiting = [wire.execute(echo(number)) for number in range(5)]
            server.kill()
            for future in waiting:
                with pytest.raises(StoreUnavailable, match="connection to Redis was lost"):
                    await future
            assert not wire.up and not store.up
            with pytest.raises(StoreUnavailable):
                await store.reserve(ACME, "k1", CLAIMS)
            server.start()
            await until_up(wire)
            assert wire.last_error == ""
        assert wire.reconnects == 2
        assert (await store.reserve(ACME, "k1", CLAIMS)).used == (1,)  # the script is loaded again


async def test_a_closed_connection_is_replaced(server: Server) -> None:
    async with a_wire(server.url) as wire:
        with redis.Redis(port=server.port) as client:
            client.client_kill_filter(_type="normal", skipme=True)
        await until_reconnected(wire)
        assert await wire.execute(echo("anew")) == b"anew"


async def test_an_error_is_the_reply_to_its_command_only(server: Server) -> None:
    async with a_wire(server.url) as wire:
        good, bad, after = (
            wire.execute(echo(1)),
            wire.execute(encode(b"NO-SUCH")),
            wire.execute(echo(2)),
        )
        assert (await good, await after) == (b"1", b"2")
        reply = await bad
        assert isinstance(reply, ReplyError) and "unknown command" in reply.text


async def test_commands_of_a_tick_are_sent_in_few_writes(server: Server) -> None:
    async with a_wire(server.url) as wire:
        assert wire._link is not None and wire._link.transport is not None
        connection = wire._link.transport.get_extra_info("socket")

        def segments() -> int:
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
            return int(struct.unpack_from("I", info, SENT_SEGMENTS)[0])

        async def one_by_one(count: int) -> None:
            for number in range(count):
                assert await wire.execute(echo(number)) == b"%d" % number

        before = segments()
        await one_by_one(5)
        assert segments() - before == 5
        before = segments()
        replies = await asyncio.gather(*(wire.execute(echo(number)) for number in range(500)))
        assert segments() - before <= 500 // EARLY + 1
        before = segments()
        await asyncio.gather(*(wire.execute(echo(number)) for number in range(EARLY - 1)))
        assert segments() - before == 1
        assert replies == [b"%d" % number for number in range(500)]


async def test_large_and_small_commands_and_replies_mix(server: Server) -> None:
    large = "x" * 3_000_000
    async with a_wire(server.url) as wire:
        replies = await asyncio.gather(*map(wire.execute, [echo(1), echo(large), echo(2)]))
    assert replies == [b"1", large.encode(), b"2"]


async def test_I9_commands_in_flight_are_bounded(server: Server) -> None:
    async with a_wire(server.url) as wire:
        server.pause()
        taken = [wire.execute(PING) for _ in range(MAX_IN_FLIGHT)]
        refused = wire.execute(PING)
        assert refused.done() and not taken[-1].done()
        with pytest.raises(StoreUnavailable):
            await refused
        server.go_on()
        assert set(await asyncio.gather(*taken)) == {b"PONG"}


async def test_waiting_commands_fail_when_the_wire_stops(server: Server) -> None:
    async with a_wire(server.url) as wire:
        server.pause()
        waiting = wire.execute(PING)
        await wire.stop()
        await wire.stop()
        with pytest.raises(StoreUnavailable):
            await waiting
        assert not wire.up
        with pytest.raises(StoreUnavailable):
            await wire.execute(PING)


@asynccontextmanager
async def another_server(answer: bytes) -> AsyncIterator[int]:
    """The port of a server that answers any request with the same bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            writer.write(answer)

    async with a_listener(serve) as port:
        yield port


async def test_a_server_other_than_redis_is_not_up() -> None:
    async with (
        another_server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port,
        a_wire(f"redis://127.0.0.1:{port}/0") as wire,
    ):
        assert not wire.up
        assert f"127.0.0.1:{port}" in wire.last_error


async def test_unexpected_replies_end_the_connection() -> None:
    async with (
        another_server(b"+PONG\r\n+PONG\r\n") as port,
        a_wire(f"redis://127.0.0.1:{port}/0") as wire,
    ):
        async with asyncio.timeout(60):
            while wire.reconnects == 0:
                await asyncio.sleep(0.005)


@pytest.mark.parametrize("host", ["redis..local", "x" * 64])
async def test_an_invalid_host_name_is_reported_and_does_not_block_the_start(host: str) -> None:
    async with a_wire(f"redis://{host}:6379/0") as wire:
        assert not wire.up
        assert host in wire.last_error


async def test_a_port_without_a_server_is_reported() -> None:
    port = free_port()
    async with a_wire(f"redis://127.0.0.1:{port}/0") as wire:
        assert not wire.up
        assert wire.last_error == f"127.0.0.1:{port} refuses connections"
        refused = wire.execute(PING)
        assert refused.done()
        with pytest.raises(StoreUnavailable, match=str(port)):
            await refused
