"""Late replies on a connection that was set aside, as its server did not answer.

A reservation that is granted there is undone, on the server that granted it.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import redis

from sidecar.core.answers import Hold
from sidecar.core.kinds import ConcurrencyLimit, RateLimit
from sidecar.core.model import Account, Claim
from sidecar.errors import StoreUnavailable
from sidecar.stores import RedisLimitStore, Wire, keys
from sidecar.stores.connection import wire as wires
from sidecar.stores.connection.wire import PING
from sidecar.stores.scripts import load, read_state
from tests.support.servers import free_port
from tests.support.stores.local_stage import a_quota, a_sidecar
from tests.support.stores.wire_ends import Cable, Server, a_cable, a_server, a_wire, until_up

ACME = Account("acme", "pro")
# It does not refill during a test.
RATE = RateLimit("burst", "requests", 3, 100_000_000, 5_000, (3, 100_000_000), per="key")
CLAIMS = (Claim(a_quota(1000), 3, False), Claim(RATE, 2, False))
SLOTS = ConcurrencyLimit("in-flight", 5)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[Server]]:
    """Two separate servers, like a master and its replacement."""
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    with a_server(folders[0]) as first, a_server(folders[1]) as second:
        yield [first, second]


@pytest.fixture
async def cabled(servers: list[Server]) -> AsyncIterator[tuple[Wire, Cable]]:
    """A wire to the first server, and the cable that sets the server of its next connection."""
    async with AsyncExitStack() as stack:
        cable, port = await stack.enter_async_context(a_cable(servers[0].port))
        yield await stack.enter_async_context(a_wire(to(port), timeout_s=0.1)), cable


def to(port: int) -> str:
    return f"redis://127.0.0.1:{port}/0"


async def until_set_aside(wire: Wire) -> None:
    async with asyncio.timeout(60):
        while not wire._aside:
            await asyncio.sleep(0.005)


async def until_closed(wire: Wire) -> None:
    async with asyncio.timeout(60):
        while wire._aside:
            await asyncio.sleep(0.005)


def state(server: Server) -> dict[bytes, bytes]:
    with redis.Redis.from_url(server.url) as client:
        return client.hgetall(keys.state("qs", ACME.id))  # type: ignore[return-value]


def load_script(server: Server, script: str) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.script_load(load(f"limits/{script}").text)


def used(server: Server) -> int:
    packed = state(server).get(b"q/monthly")
    return read_state(packed)[0] if packed else 0


@pytest.mark.parametrize("many", [1, 50])
async def test_I5_a_reservation_granted_on_a_connection_set_aside_is_undone(
    servers: list[Server], many: int
) -> None:
    server = servers[0]
    async with a_wire(server.url, timeout_s=0.1) as wire:
        store = RedisLimitStore(wire)
        await store.reserve(ACME, "k1", CLAIMS)
        server.pause()
        asked = (store.reserve(ACME, "k1", CLAIMS) for _ in range(many))
        ends = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(end) for end in ends] == [StoreUnavailable] * many
        await until_set_aside(wire)
        server.go_on()
        await until_closed(wire)
        await until_up(wire)
        assert store.late_reservations == many
        assert (await store.peek(ACME, "k1", CLAIMS)).used[0] == used(server) == 3


async def test_I5_a_late_open_reservation_releases_its_slot(servers: list[Server]) -> None:
    server = servers[0]
    claims = (*CLAIMS, Claim(SLOTS, 1, False))
    async with a_wire(server.url, timeout_s=0.1) as wire:
        store = RedisLimitStore(wire)
        await store.reserve(ACME, "k1", CLAIMS)
        server.pause()
        with pytest.raises(StoreUnavailable):
            await store.reserve(ACME, "k1", claims, hold=Hold("h1", 30_000_000))
        with pytest.raises(StoreUnavailable):
            await store.reserve(ACME, "k1", claims, hold=Hold("h2", 30_000_000))
        await until_set_aside(wire)
        server.go_on()
        await until_closed(wire)
        await until_up(wire)
        async with asyncio.timeout(30):
            while store.settler.pending:
                store.settler._turn()
                await asyncio.sleep(0.01)
        answer = await store.peek(ACME, "k1", claims)
        assert (answer.used[0], answer.used[2]) == (3, 0)
        assert not any(field.startswith(b"o/") for field in state(server))


async def test_I1_a_late_reservation_is_undone_on_the_server_that_granted_it(
    servers: list[Server], cabled: tuple[Wire, Cable]
) -> None:
    (old, new), (wire, cable) = servers, cabled
    store = RedisLimitStore(wire)
    for _ in range(2):
        await store.reserve(ACME, "k1", CLAIMS)
    old.pause()
    with pytest.raises(StoreUnavailable):
        await store.reserve(ACME, "k1", CLAIMS)
    cable.to = new.port
    await until_up_again(wire)
    await store.reserve(ACME, "k1", CLAIMS)
    before = state(new)
    old.go_on()
    await until_closed(wire)
    assert store.late_reservations == 1
    assert used(old) == 6
    assert state(new) == before


async def test_I5_a_settlement_is_repeated_on_the_current_server(
    servers: list[Server], cabled: tuple[Wire, Cable]
) -> None:
    (old, new), (wire, cable) = servers, cabled
    store = RedisLimitStore(wire)
    load_script(old, "settle")
    await store.reserve(ACME, "k1", CLAIMS, hold=Hold("h1", 30_000_000))
    old.pause()
    store.settle(ACME, "k1", CLAIMS, "h1")
    cable.to = free_port()
    await until_set_aside(wire)
    old.go_on()
    await until_closed(wire)
    assert not any(field.startswith(b"o/") for field in state(old))  # the old server has settled it
    assert store.settler.pending == 1  # but may have lost it
    cable.to = new.port
    await until_up(wire)
    async with asyncio.timeout(30):
        while store.settler.pending:
            store.settler._turn()
            await asyncio.sleep(0.01)


async def test_I5_a_charge_is_repeated_on_the_current_server(
    servers: list[Server], tmp_path: Path
) -> None:
    old, new = servers
    async with (
        a_cable(old.port) as (cable, port),
        a_sidecar(to(port), tmp_path / "journal") as one,
    ):
        claims = CLAIMS[:1]
        load_script(old, "charge")
        assert await one.request(*claims)
        old.pause()
        one.store._charge(
            ACME, "k1", claims, None, (), one.store.now_us()
        )  # sent, as Redis seems to be available
        cable.to = free_port()
        await until_set_aside(one.wire)
        old.go_on()
        await until_closed(one.wire)
        assert used(old) == 6
        assert one.store.uncharged == 1
        cable.to = new.port
        await one.until_back()
        assert used(new) == 3


async def until_up_again(wire: Wire) -> None:
    await until_set_aside(wire)
    await until_up(wire)


async def test_waiting_commands_fail_when_a_connection_is_set_aside(
    servers: list[Server],
) -> None:
    async with a_wire(servers[0].url, timeout_s=30) as wire:
        servers[0].pause()
        waiting = wire.execute(PING)
        assert wire._link is not None
        wire._set_aside(wire._link)
        with pytest.raises(StoreUnavailable, match="in time"):
            await waiting


async def test_I9_the_number_of_connections_set_aside_is_bounded(
    servers: list[Server], cabled: tuple[Wire, Cable], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wires, "MOST_ASIDE", 1)
    (old, new), (wire, cable) = servers, cabled
    old.pause()
    wire.tell(PING)
    cable.to = new.port
    await until_up_again(wire)
    [(_, first)] = wire._aside
    new.pause()
    wire.tell(PING)
    async with asyncio.timeout(60):
        while wire._aside[0][1] is first:
            await asyncio.sleep(0.005)
    assert first.closed
    assert len(wire._aside) == 1


async def test_I9_a_connection_set_aside_is_closed_after_a_time(
    servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wires, "ASIDE_SECONDS", 0.2)
    async with a_wire(servers[0].url, timeout_s=0.1) as wire:
        servers[0].pause()
        wire.tell(PING)
        await until_set_aside(wire)
        [(_, link)] = wire._aside
        await until_closed(wire)  # though it does not answer
        assert link.closed


async def test_stopping_a_wire_closes_connections_set_aside(servers: list[Server]) -> None:
    async with a_wire(servers[0].url, timeout_s=0.1) as wire:
        servers[0].pause()
        wire.tell(PING)
        await until_set_aside(wire)
        [(_, link)] = wire._aside
        await wire.stop()
        assert link.closed
        assert not wire._aside


async def test_a_reservation_counts_though_loading_its_script_timed_out(
    servers: list[Server],
) -> None:
    """After NOSCRIPT, two commands are sent, and only the first may be late."""
    async with a_wire(servers[0].url) as wire:
        store = RedisLimitStore(wire)
        await store.peek(ACME, "k1", CLAIMS)
        with redis.Redis.from_url(servers[0].url) as client:
            client.script_flush()
        asked = asyncio.ensure_future(store.reserve(ACME, "k1", CLAIMS))
        loading = load("limits/reserve").load_command()
        assert wire._link is not None
        link, send = wire._link, wire._link.send

        def lose_the_load(command: bytes, *more: object) -> "asyncio.Future[object]":
            future = send(command, *more)  # type: ignore[arg-type]
            if command == loading:
                future.set_exception(StoreUnavailable("late by a moment"))
            return future

        link.send = lose_the_load  # type: ignore[method-assign]
        assert (await asked).granted
        assert used(servers[0]) == 3
