"""Model test of the pool: any order of opening, failing, cancelling, timing out and releasing.

The pool, its queues and its timeouts are real; its connections have no network, and time is
virtual. After each step the pool is at rest, and then no request waits while there is a place.
"""

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sidecar.commands.serve import is_compiled
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.upstream.address import Upstream
from sidecar.proxy.upstream.places import CRITICAL, DEFERRABLE, STANDARD, Places
from sidecar.proxy.upstream.pool import UpstreamFailed, UpstreamPool
from tests.support.virtual_time import VirtualLoop

pytestmark = pytest.mark.skipif(is_compiled(), reason="a compiled class cannot be derived from")

ACCOUNTS = st.sampled_from(["a", "b", "c"])
KINDS = st.sampled_from([CRITICAL, STANDARD, DEFERRABLE])
CONNECT_TIMEOUT_S = 3.0


class Connection:
    """The part of a connection that the pool uses; it closes one step after `retire`.

    While its pool `lingers`, it closes when the test says so.
    """

    receiver, deadline, idle_since, address = None, 0.0, 0.0, ""
    reused, reading = False, True

    def __init__(self, pool: UpstreamPool) -> None:
        self.usable = True
        self.closed = False
        self.places: Places | None = None
        self.account, self.critical = "", False
        self._pool: Any = pool
        self._closing = False

    def resume_reading(self) -> None:
        """Do nothing: reading was not paused."""

    def retire(self) -> None:
        self.usable = False
        if not self._closing:
            self._closing = True
            if self._pool.lingers:
                self._pool.closing.append(self)
            else:
                asyncio.get_running_loop().call_soon(self.lost)

    def lost(self) -> None:
        self.closed = True
        self._pool.remove(self)


class NoNetwork(UpstreamPool):
    """A pool whose connections open when the test says so."""

    def __init__(self, bounds: Bounds) -> None:
        super().__init__(Upstream("127.0.0.1", 1), bounds)
        self.opening: list[asyncio.Future[Connection]] = []
        self.sockets: list[Connection] = []
        self.lingers = False  # sockets that close take their time
        self.closing: list[Connection] = []

    async def _open(self) -> Any:
        opening: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self.opening.append(opening)
        try:
            connection = await opening
        finally:
            self.opening.remove(opening)
        self.sockets.append(connection)
        return connection


class PoolMachine(RuleBasedStateMachine):
    """Requests of three accounts and three classes on a small pool."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.tasks: dict[asyncio.Task[Any], tuple[str, int]] = {}
        self.used: list[tuple[Any, str, int]] = []

    @initialize(
        limit=st.integers(1, 5), reserved=st.integers(0, 3), percent=st.sampled_from([30, 50, 100])
    )
    def begin(self, limit: int, reserved: int, percent: int) -> None:
        async def make() -> NoNetwork:
            return NoNetwork(
                Bounds(
                    upstream_connections=limit,
                    critical_connections=reserved,
                    account_percent=percent,
                    tunnels=2,
                    connect_timeout=CONNECT_TIMEOUT_S,
                )
            )

        self.pool = self.loop.run_until_complete(make())
        self.percent, self.limit = percent, limit
        self.shared = limit - min(reserved, limit - 1)

    def settle(self) -> None:
        """Run the loop until only timers are left, and collect what the requests got."""

        async def rest() -> None:
            for _ in range(20):
                await asyncio.sleep(0)

        self.loop.run_until_complete(rest())
        for task in [task for task in self.tasks if task.done()]:
            account, kind = self.tasks.pop(task)
            if task.cancelled():
                continue
            if task.exception() is None:
                self.used.append((task.result(), account, kind))
            else:
                assert isinstance(task.exception(), UpstreamFailed)

    def ask(self, account: str, kind: int, **how: bool) -> None:
        task = self.loop.create_task(self.pool.acquire(account, kind, **how))
        self.tasks[task] = account, kind
        self.settle()

    @rule(account=ACCOUNTS, kind=KINDS, fresh=st.booleans())
    def request(self, account: str, kind: int, fresh: bool) -> None:
        self.ask(account, kind, fresh=fresh)

    @rule(account=ACCOUNTS, kind=KINDS)
    def request_tunnel(self, account: str, kind: int) -> None:
        self.ask(account, kind, tunnel=True)

    @rule(account=ACCOUNTS, kind=KINDS)
    def request_idle(self, account: str, kind: int) -> None:
        connection = self.pool.take_idle(account, critical=kind == CRITICAL)
        if connection is not None:
            assert connection.usable
            self.used.append((connection, account, kind))

    @precondition(lambda self: self.pool.opening)
    @rule(data=st.data(), closed=st.booleans())
    def open(self, data: st.DataObject, closed: bool) -> None:
        opening = data.draw(st.sampled_from(self.pool.opening))
        connection = Connection(self.pool)
        if closed:  # by the API, at once
            connection.usable, connection.closed = False, True
        opening.set_result(connection)
        self.settle()

    @precondition(lambda self: self.pool.opening)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.pool.opening)).set_exception(ConnectionRefusedError())
        self.settle()

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """The client leaves."""
        self.run(data.draw(st.sampled_from(list(self.tasks))).cancel)

    @precondition(lambda self: self.used and self.pool.places.waiting)
    @rule(data=st.data())
    def cancel_at_turn(self, data: st.DataObject) -> None:
        """A client leaves at the moment of its turn."""
        entry = data.draw(st.sampled_from(self.used))
        self.used.remove(entry)
        leaving = data.draw(st.sets(st.sampled_from(list(self.tasks)), min_size=1))

        def leave() -> None:
            self.pool.release(entry[0])
            for task in leaving:
                task.cancel()

        self.run(leave)

    @precondition(lambda self: self.tasks)
    @rule()
    def time_out(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(CONNECT_TIMEOUT_S))
        self.settle()
        assert not [task for task in self.tasks if not task.done()] or self.pool.opening

    @precondition(lambda self: self.used)
    @rule(data=st.data(), usable=st.booleans())
    def release(self, data: st.DataObject, usable: bool) -> None:
        entry = data.draw(st.sampled_from(self.used))
        self.used.remove(entry)
        entry[0].usable = usable
        self.run(self.pool.release, entry[0])

    @precondition(lambda self: self.used)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        """The API closes a used connection, and its request asks for a fresh one."""
        entry = data.draw(st.sampled_from(self.used))
        connection, account, kind = entry
        self.used.remove(entry)
        tunnel = connection.places is self.pool.tunnels
        self.run(connection.retire)
        self.ask(account, kind, fresh=not tunnel, tunnel=tunnel)

    @precondition(lambda self: self.pool.idle)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        """The API closes an idle connection."""
        self.run(data.draw(st.sampled_from(list(self.pool._idle))).retire)

    @rule(lingers=st.booleans())
    def linger(self, lingers: bool) -> None:
        """From now on, sockets close at once or not."""
        self.pool.lingers = lingers

    @precondition(lambda self: self.pool.closing)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        """The system closes a socket."""
        closing = data.draw(st.sampled_from(self.pool.closing))
        self.pool.closing.remove(closing)
        self.run(closing.lost)

    def run(self, function: Any, *arguments: Any) -> None:
        """Call a function in the loop."""

        async def call() -> None:
            function(*arguments)

        self.loop.run_until_complete(call())
        self.settle()

    @invariant()
    def sockets_and_places_are_bounded(self) -> None:
        pool = self.pool
        in_use = [c for c, _, _ in self.used if c.places is pool.places and not c.closed]
        of_tunnels = [c for c, _, _ in self.used if c.places is pool.tunnels and not c.closed]
        connecting = len(pool.opening)
        closing = [c for c in pool.closing if c.places is not None]
        need_room = len(self.tasks) - pool.waiting - connecting
        assert pool.places.promised == pool.tunnels.promised == 0  # nothing is under way
        assert pool.places.taken + pool.tunnels.taken == (
            len(in_use) + len(of_tunnels) + connecting + len(closing) + need_room
        )
        opened = [c for c in pool.sockets if not c.closed]
        assert len(opened) == pool.size
        apart = [c for c in pool.closing if c not in pool._idle]  # type: ignore[comparison-overlap]
        assert pool.size == len(in_use) + len(of_tunnels) + pool.idle + len(apart)
        assert len(pool._all) + pool._connecting <= self.limit
        assert not need_room or len(pool._all) + pool._connecting == self.limit
        assert pool.places.taken <= self.limit
        assert pool.tunnels.taken <= 2
        assert all(c.places is None for c in pool._idle)
        assert all(c.usable or c in pool.closing for c in pool._idle)  # type: ignore[comparison-overlap]
        assert repr(pool).startswith(f"<UpstreamPool 127.0.0.1:1: {len(pool._all)} open")

    @invariant()
    def places_are_counted_by_account(self) -> None:
        places = self.pool.places
        by_account = Counter(places._critical) + Counter(places._others)
        assert sum(by_account.values()) == places.taken
        assert 0 not in (*places._critical.values(), *places._others.values())

    @invariant()
    def no_request_waits_while_there_is_a_place(self) -> None:
        for places, limit, shared in (
            (self.pool.places, self.limit, self.shared),
            (self.pool.tunnels, 2, self.pool.tunnels._shared),
        ):
            for critical in (True, False):
                free = (limit if critical else shared) - places.taken
                for account, count in places.waiting_accounts(critical=critical):
                    assert count
                    own = places.held(account, critical=critical)
                    assert free <= 0 or own * (100 - self.percent) >= free * self.percent

    def teardown(self) -> None:
        for task in self.tasks:
            task.cancel()
        try:
            if hasattr(self, "pool"):
                self.pool.lingers = False
                for connection in self.pool.closing:
                    self.run(connection.lost)
            for connection, _, _ in self.used:
                self.run(connection.retire)
            if hasattr(self, "pool"):
                self.settle()
                places, tunnels = self.pool.places, self.pool.tunnels
                assert (places.taken, tunnels.taken, self.pool.waiting) == (0, 0, 0)
        finally:
            self.loop.close()


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def test_a_fresh_connection_replaces_an_idle_one() -> None:
    """The only idle connection closes first: a retry never exceeds the bound."""
    machine = PoolMachine()
    machine.begin(limit=1, reserved=0, percent=100)
    machine.ask("a", STANDARD)
    machine.pool.opening[0].set_result(Connection(machine.pool))
    machine.settle()
    machine.run(machine.pool.release, machine.used.pop()[0])
    machine.ask("a", STANDARD, fresh=True)
    assert (machine.pool.size, len(machine.pool.opening)) == (0, 1)
    machine.pool.opening[0].set_exception(ConnectionRefusedError())
    machine.settle()
    machine.teardown()


@pytest.mark.parametrize("closes", [True, False])
def test_a_request_waits_for_a_socket_that_closes_slowly(closes: bool) -> None:
    """It waits for the event, within the connect timeout: virtual time would not pass otherwise."""
    machine = PoolMachine()
    machine.begin(limit=1, reserved=0, percent=100)
    machine.ask("a", STANDARD)
    machine.pool.opening[0].set_result(Connection(machine.pool))
    machine.settle()
    machine.run(machine.pool.release, machine.used.pop()[0])
    machine.linger(lingers=True)
    task = machine.loop.create_task(machine.pool.acquire("a", STANDARD, fresh=True))
    machine.tasks[task] = "a", STANDARD
    machine.loop.run_until_complete(asyncio.sleep(CONNECT_TIMEOUT_S - 0.1))
    assert (machine.pool.size, len(machine.pool.opening), task.done()) == (1, 0, False)
    if closes:
        machine.run(machine.pool.closing.pop().lost)
        assert (machine.pool.size, len(machine.pool.opening)) == (0, 1)
    else:
        machine.loop.run_until_complete(asyncio.sleep(0.2))
        assert str(task.exception()) == "No connection to the API was closed in time for a new one."
        assert machine.pool.places.taken == 0
    machine.settle()
    machine.teardown()
