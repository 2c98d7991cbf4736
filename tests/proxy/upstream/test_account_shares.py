"""One account never uses all connections to the API, nor all WebSockets; slow bodies use none."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.proxy.body_budget import BodyBudget
from sidecar.proxy.upstream.places import Places
from tests.support.http.raw_ends import End, Ends, calls, empty
from tests.support.servers import free_port
from tests.support.stage import Stage, StartStage, problem, status

LIMITS = {
    "upstream_connections": "20",
    "critical_connections": "4",
    "connect_timeout_s": "0.3",
    "stall_timeout_s": "600",  # without preemption
}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HANG = b"GET /%b HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\n\r\n"
LOGIN = b"POST /login HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\nContent-Length: 0\r\n\r\n"
UPLOAD = b"POST /up HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\nContent-Length: %d\r\n\r\n"
CHUNKS = (  # without a length, so the body is not read first
    b"POST /%b HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\nTransfer-Encoding: chunked\r\n\r\nff\r\na"
)
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
SWITCHED = b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    made = Ends()
    await made.start()
    yield made
    await made.stop()


async def flood(here: Stage, ends: Ends, request: bytes, count: int) -> list[End]:
    """Connections of acme that send a request each."""
    clients = []
    for _ in range(count):
        clients.append(await ends.client(here))
        await clients[-1].send(request)
    return clients


async def hung(ends: Ends, count: int, reply: bytes = b"") -> list[End]:
    """Upstream connections with a request that gets no final response."""
    taken = []
    for _ in range(count):
        upstream = await ends.upstream()
        await upstream.head()
        if reply:
            await upstream.send(reply)
        taken.append(upstream)
    return taken


async def answers(clients: list[End], count: int) -> list[bytes]:
    """The responses to `count` of the clients, whichever they are."""
    waits = {asyncio.ensure_future(client.answer()) for client in clients}
    done: set[asyncio.Future[bytes]] = set()
    while len(done) < count:
        ended, waits = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        done |= ended
    for wait in waits:
        wait.cancel()
    return [one.result() for one in done]


async def others_are_served(here: Stage, ends: Ends) -> None:
    """Check that another account gets a standard and a critical response."""
    for method, path in (("GET", "/x"), ("POST", "/login")):
        call = asyncio.ensure_future(here.call(method, path, key="lena"))
        upstream = await ends.upstream()
        head = await upstream.head()
        assert b"X-Account-Id: lena\r\n" in head
        await upstream.send(OK)
        assert status(await call) == 200
        upstream.close()
        await upstream.rest()


@pytest.mark.parametrize(
    ("request_", "allowed"),
    [
        pytest.param(HANG % b"hang", 8, id="17_starve_upstream: hanging standard calls"),
        pytest.param(LOGIN, 10, id="17_starve_upstream: hanging critical calls"),
        pytest.param(UPLOAD % 1_000_000 + b"a" * 3000, 8, id="17_starve_upstream: slow uploads"),
        pytest.param(
            (UPLOAD % 1_000_000).replace(b"/up", b"/login") + b"a" * 3000,
            10,
            id="19_starve_critical: slow uploads to a critical route",
        ),
        pytest.param(CHUNKS % b"up", 8, id="17_starve_upstream: slow chunked uploads"),
        pytest.param(CHUNKS % b"login", 10, id="19_starve_critical: slow chunked uploads"),
    ],
)
async def test_one_account_cannot_use_all_connections(
    stage: StartStage, ends: Ends, request_: bytes, allowed: int
) -> None:
    here = await stage(upstream=ends.url, **LIMITS)
    clients = await flood(here, ends, request_, 30)
    await hung(ends, allowed)
    await others_are_served(here, ends)
    assert {status(answer) for answer in await answers(clients, 30 - allowed)} == {503}
    assert ends.unanswered == 0
    assert here.app.pool.places.taken == allowed


async def test_a_refused_share_is_explained(stage: StartStage, ends: Ends) -> None:
    here = await stage(upstream=ends.url, **LIMITS)
    await flood(here, ends, HANG % b"hang", 8)
    await hung(ends, 8)
    refused = await here.call("GET", "/x")
    told = problem(refused)
    assert (told["status"], told["title"]) == (503, "The API is at capacity")
    assert told["detail"] == (
        "This account uses its share of the connections to the API. Others keep theirs."
    )
    assert told["how_to_fix"][0]["action"] == "retry"
    assert b"\r\nRetry-After: 1\r\n" in refused


@pytest.mark.parametrize("key", ["acme", "lena"], ids=["same account", "another account"])
async def test_19_starve_critical_websockets_use_no_connection_of_requests(
    stage: StartStage, ends: Ends, key: str
) -> None:
    here = await stage(upstream=ends.url, max_websockets="20", **LIMITS)
    clients = await flood(here, ends, UPGRADE, 30)
    await hung(ends, 8, SWITCHED)
    heads = [(client, await client.head()) for client in clients]
    refused = [head + await client.body(head) for client, head in heads if status(head) == 503]
    assert [status(head) for _, head in heads].count(101) == 8
    assert len(refused) == 22
    for answer in refused:
        assert problem(answer)["detail"].startswith("This account uses its share of the WebSockets")
    assert here.app.pool.places.taken == 0
    call = asyncio.ensure_future(here.call("GET", "/x", key=key))
    await hung(ends, 1, OK)
    assert status(await call) == 200
    upgrade = await ends.client(here)
    await upgrade.send(UPGRADE.replace(b"acme", b"lena"))
    await hung(ends, 1, SWITCHED)
    assert status(await upgrade.head()) == 101
    for client in [*clients, upgrade]:
        client.reset()
    await empty(here)
    assert here.app.pool.tunnels.taken == 0


async def test_a_small_body_is_read_before_a_connection_is_taken(
    stage: StartStage, ends: Ends
) -> None:
    here = await stage(upstream=ends.url, small_body_bytes="1000", **LIMITS)
    clients = await flood(here, ends, UPLOAD % 1000 + b"a" * 999, 30)
    pool = here.app.pool
    while pool.bodies.used < 30_000:
        await asyncio.sleep(0)
    assert (pool.size, ends.unanswered) == (0, 0)
    await clients[0].send(b"z")
    upstream = await ends.upstream()
    await upstream.head()
    await upstream.get(b"a" * 999 + b"z")
    await upstream.send(OK)
    assert status(await clients[0].answer()) == 200
    assert pool.bodies.used == 29_000
    for client in clients:
        client.abort()
    await empty(here)
    assert pool.bodies.used == 0
    assert {(event["status"], event["reason"]) for event in await calls(here)} == {
        (200, "ok"), (499, "client_gone")
    }  # fmt: skip


async def test_a_small_body_that_stalls_is_a_408(stage: StartStage, ends: Ends) -> None:
    here = await stage(upstream=ends.url, body_timeout_s="0.2")
    (client,) = await flood(here, ends, UPLOAD % 10 + b"a", 1)
    assert status(await client.answer()) == 408
    assert await client.rest() == b""
    await empty(here)
    assert ends.unanswered == 0
    assert here.app.pool.bodies.used == 0


async def test_a_small_body_that_reaches_no_api_frees_its_memory(
    stage: StartStage, ends: Ends
) -> None:
    here = await stage(upstream=f"http://127.0.0.1:{free_port()}")
    (client,) = await flood(here, ends, UPLOAD % 10 + b"a", 1)
    while not here.app.pool.bodies.used:
        await asyncio.sleep(0)
    await client.send(b"z" * 9)
    assert status(await client.answer()) == 502
    client.abort()
    await empty(here)
    assert here.app.pool.bodies.used == 0


@pytest.mark.parametrize("size", [1001, 500], ids=["larger", "no memory"])
async def test_other_bodies_are_streamed(stage: StartStage, ends: Ends, size: int) -> None:
    here = await stage(upstream=ends.url, small_body_bytes="1000", small_bodies_bytes="900")
    (client,) = await flood(here, ends, UPLOAD % size + b"begun", 1)
    upstream = await ends.upstream()
    await upstream.head()
    await upstream.get(b"begun")
    await client.send(b"x" * (size - 5))
    await upstream.get(b"x" * (size - 5))
    await upstream.send(OK)
    assert status(await client.answer()) == 200


ACTIONS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.booleans(), st.booleans(), st.integers(1, 30))
)


@given(st.integers(1, 30), st.integers(0, 9), st.sampled_from([10, 50, 80, 100]), ACTIONS)
def test_the_law_of_shares_holds_for_places(
    limit: int, reserved: int, percent: int, actions: list[tuple[str, bool, bool, int]]
) -> None:
    places = Places(limit, reserved, percent, lambda: 0.0)
    shared = limit - min(reserved, limit - 1)
    held: dict[tuple[str, bool], int] = {}
    for account, critical, take, _ in actions:
        own = held.get((account, critical), 0)
        if not take:
            if own:
                places.free(account, critical=critical)
                held[account, critical] = own - 1
            continue
        others = places.taken - own
        bound = (limit if critical else shared) - others
        may = bound > own and (own == 0 or own * 100 < bound * percent)
        assert places.take(account, critical=critical) == may
        held[account, critical] = own + may
        assert places.taken == sum(held.values()) <= limit


@given(st.integers(1, 100), st.sampled_from([10, 50, 100]), ACTIONS)
def test_the_law_of_shares_holds_for_bodies(
    limit: int, percent: int, actions: list[tuple[str, bool, bool, int]]
) -> None:
    budget = BodyBudget(limit, percent, largest=30)
    held: list[tuple[str, int]] = []
    for account, _, take, size in actions:
        if take and budget.take(account, size):
            held.append((account, size))
            own = sum(one for of, one in held if of == account)
            others = sum(one for of, one in held if of != account)
            assert own * 100 <= (limit - others) * percent
        elif not take and held:
            budget.free(*held.pop(0))
        assert budget.used == sum(one for _, one in held) <= limit
