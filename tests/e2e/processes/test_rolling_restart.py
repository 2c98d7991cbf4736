"""A rolling restart behind a client-side load balancer loses no request."""

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from loadtests.soak.client import Answer, Connection, Ended, connect
from tests.support.processes import PATIENCE_S, Serving, SlowApi, StartServing, until
from tests.support.stage import plans_text

CALL = b"GET /items HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\n\r\n"
CLIENTS = 12
KEPT_FOR = 40  # calls
ENOUGH = 100  # responses of one sidecar, after which it has its part of the load
DELAY_S = 3  # many times the interval in which the balancer checks readiness
LONG_S = 3_600  # longer than a test: an earlier end has another reason


class Balancer:
    """A load balancer before the pods of a service.

    It opens connections to ready pods, and retries only requests that were never sent.
    """

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.lost: list[str] = []
        self.served: Counter[int] = Counter()  # by port
        self._pods: list[Serving] = []
        self._ready: list[Serving] = []
        self._turn = 0

    def add(self, pod: Serving) -> None:
        self._pods.append(pod)
        self._ready.append(pod)

    async def watch(self) -> None:
        """Poll the readiness of each pod, as a platform does."""
        while True:
            states = [(pod, await says_ready(pod)) for pod in self._pods]
            self._ready = [pod for pod, ready in states if ready]
            await asyncio.sleep(0.02)

    async def _connect(self) -> tuple[Connection, Serving]:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                self._turn += 1
                if self._ready:
                    pod = self._ready[self._turn % len(self._ready)]
                    with suppress(ConnectionRefusedError):
                        return await connect(pod.port), pod
                await asyncio.sleep(0.01)

    async def client(self, over: asyncio.Event) -> None:
        """Send requests one after the other.

        A connection is reused while its responses allow it, but not forever, so that a new pod
        gets its part.
        """
        while not over.is_set():
            connection, pod = await self._connect()
            for _ in range(KEPT_FOR):
                if over.is_set() or connection.ended or not await self._call(connection, pod):
                    break
            connection.close()

    async def _call(self, connection: Connection, pod: Serving) -> bool:
        """Send a request. Returns whether the connection can be reused."""
        connection.send(CALL)
        try:
            async with asyncio.timeout(PATIENCE_S):
                answer = await connection.answer()
        except (Ended, TimeoutError) as error:
            self.lost.append(repr(error))
            return False
        self.answers.append(answer)
        self.served[pod.port] += 1
        return not answer.closes


async def says_ready(pod: Serving) -> bool:
    try:
        return (await pod.ask("/readyz"))[0] == 200
    except aiohttp.ClientError:
        return False


@asynccontextmanager
async def load(balancer: Balancer) -> AsyncIterator[None]:
    """Run clients during the block, and wait for the end of all their requests."""
    over = asyncio.Event()
    watching = asyncio.create_task(balancer.watch())
    clients = [asyncio.create_task(balancer.client(over)) for _ in range(CLIENTS)]
    try:
        yield
    finally:
        over.set()
        await asyncio.gather(*clients)
        watching.cancel()


async def end(pod: Serving, number: signal.Signals = signal.SIGTERM) -> int:
    """The exit code after a signal."""
    pod.process.send_signal(number)
    async with asyncio.timeout(PATIENCE_S):
        return await pod.process.wait()


async def carries_its_part(balancer: Balancer, pod: Serving) -> None:
    before = balancer.served[pod.port]
    await until(lambda: balancer.served[pod.port] >= before + ENOUGH)


async def signal_in_mid_answer(balancer: Balancer, api: SlowApi, pod: Serving) -> None:
    """Send SIGTERM when each client has half of a response."""
    api.release.clear()
    await until(lambda: api.arrived == len(balancer.answers) + CLIENTS)
    pod.process.send_signal(signal.SIGTERM)
    await until(lambda: pod.said("drain_started"))
    api.release.set()


@pytest.fixture
def plans(tmp_path: Path) -> Path:
    """A plan file that refuses no request."""
    file = tmp_path / "roomy.yaml"
    file.write_text(plans_text(quota=10_000_000))
    return file


async def test_I4_a_rolling_restart_under_load_completes_each_request_and_records_it_once(
    serving: StartServing, slow_api: SlowApi, plans: Path
) -> None:
    async def start() -> Serving:
        api = f"http://127.0.0.1:{slow_api.port}"
        pod = await serving(upstream=api, plans=plans, drain_delay_s=DELAY_S)
        balancer.add(pod)
        return pod

    balancer = Balancer()
    slow_api.release.set()
    pods = [await start(), await start()]
    async with load(balancer):
        for old in tuple(pods):
            for pod in pods[-2:]:
                await carries_its_part(balancer, pod)
            await signal_in_mid_answer(balancer, slow_api, old)
            async with asyncio.timeout(PATIENCE_S):
                assert await old.process.wait() == 0
            assert old.said("sidecar_stopped")
            pods.append(await start())
        await carries_its_part(balancer, pods[-1])
    assert [await end(pod) for pod in pods[2:]] == [0, 0]
    assert balancer.lost == []
    assert {(one.status, one.body, one.whole) for one in balancer.answers} == {
        (200, b"first-second", True)
    }
    recorded = [event["id"] for pod in pods for event in pod.events()]
    assert Counter(recorded) == Counter(answer.id for answer in balancer.answers)


async def test_during_the_delay_each_response_closes_its_connection_and_readyz_gives_the_reason(
    serving: StartServing, slow_api: SlowApi
) -> None:
    pod = await serving(upstream=f"http://127.0.0.1:{slow_api.port}", drain_delay_s=LONG_S)
    kept = await connect(pod.port)
    kept.send(CALL)
    head = await kept.until(b"\r\n\r\n")
    pod.process.send_signal(signal.SIGTERM)
    await until(lambda: pod.said("drain_started"))
    code, body = await pod.ask("/readyz")
    assert (code, json.loads(body)["reasons"]) == (503, ["draining"])
    assert (await pod.ask("/healthz"))[0] == 200
    slow_api.release.set()
    assert await kept.exactly(12) == b"first-second"
    assert b"Connection: close" not in head  # so this connection serves another request
    for connection in (kept, await connect(pod.port)):
        connection.send(CALL)
        answer = await connection.answer()
        assert (answer.status, answer.body, answer.closes) == (200, b"first-second", True)
        with pytest.raises(Ended):
            await connection.exactly(1)
    assert pod.process.returncode is None
    assert await end(pod) == 0
    assert len(pod.events()) == 3


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_every_wait_and_records_the_requests_that_it_ends(
    serving: StartServing, slow_api: SlowApi, second: signal.Signals
) -> None:
    waits = {"drain_delay_s": LONG_S, "drain_timeout_s": LONG_S}
    pod = await serving(upstream=f"http://127.0.0.1:{slow_api.port}", **waits)
    connection = await connect(pod.port)
    connection.send(CALL)
    await until(lambda: slow_api.arrived == 1)
    pod.process.send_signal(signal.SIGTERM)
    await until(lambda: pod.said("drain_started"))
    assert await end(pod, second) == 0
    assert pod.said("drain_cut_short")
    answer = await connection.answer()
    assert (answer.body, answer.whole) == (b"first-", False)
    [event] = pod.events()
    assert (event["id"], event["data"]["reason"]) == (answer.id, "cancelled")


async def test_sigint_waits_for_requests_in_flight_and_not_for_the_delay(
    serving: StartServing, slow_api: SlowApi
) -> None:
    waits = {"drain_delay_s": LONG_S, "drain_timeout_s": LONG_S}
    pod = await serving(upstream=f"http://127.0.0.1:{slow_api.port}", **waits)
    connection = await connect(pod.port)
    connection.send(CALL)
    await until(lambda: slow_api.arrived == 1)
    pod.process.send_signal(signal.SIGINT)
    await until(lambda: pod.said("drain_started"))
    assert pod.process.returncode is None
    slow_api.release.set()
    answer = await connection.answer()
    assert (answer.status, answer.body) == (200, b"first-second")
    async with asyncio.timeout(PATIENCE_S):
        assert await pod.process.wait() == 0
    assert pod.said("sidecar_stopped")
    assert not pod.said("drain_cut_short")
