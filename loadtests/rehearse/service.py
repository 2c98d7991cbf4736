"""A Service with its clients: a connection goes to a ready pod, and stays there until it ends."""

import asyncio
import contextlib
from collections import Counter
from typing import Final

from loadtests.rehearse.kubelet import RunningPod
from loadtests.soak.client import Connection, Ended, connect

KEPT_FOR: Final = 100  # requests on one connection, so that a new pod gets its part
PATIENCE_S: Final = 30.0
KEY: Final = "rehearsal"
_REQUEST: Final = f"GET /items HTTP/1.1\r\nHost: shop\r\nX-Api-Key: {KEY}\r\n\r\n".encode()


class Service:
    """The endpoints of a Service. A change reaches its clients after `propagation_s` seconds.

    `answered` has the IDs of all answered requests, `failed` what each failed one saw.
    """

    def __init__(self, propagation_s: float, *, clients: int, pause_s: float) -> None:
        """`pause_s`: of each client, after each answer."""
        self.answered: list[str] = []
        self.failed: list[str] = []
        self.served: Counter[str] = Counter()  # by pod
        self._propagation_s = propagation_s
        self._clients = clients
        self._pause_s = pause_s
        self._pods: list[RunningPod] = []
        self._endpoints: list[RunningPod] = []
        self._turn = 0
        self._over = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, pod: RunningPod) -> None:
        """Watch a pod."""
        self._pods.append(pod)

    def start(self) -> None:
        """Start the clients."""
        self._tasks = [asyncio.create_task(self._watch())]
        self._tasks += [asyncio.create_task(self._client()) for _ in range(self._clients)]

    async def stop(self) -> None:
        """Let each client finish its request."""
        self._over.set()
        await asyncio.gather(*self._tasks[1:])
        self._tasks[0].cancel()

    async def carries(self, pod: RunningPod, requests: int) -> None:
        """Wait until a pod has served this many more requests."""
        goal = self.served[pod.name] + requests
        async with asyncio.timeout(PATIENCE_S):
            while self.served[pod.name] < goal:  # noqa: ASYNC110 - many clients count
                await asyncio.sleep(0.02)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        known: list[RunningPod] = []
        while True:
            ready = [pod for pod in self._pods if pod.ready]
            if ready != known:
                known = ready
                loop.call_later(self._propagation_s, self._publish, ready)
            await asyncio.sleep(0.02)

    def _publish(self, ready: list[RunningPod]) -> None:
        self._endpoints = ready

    async def _client(self) -> None:
        while not self._over.is_set():
            if not self._endpoints:
                await asyncio.sleep(0.02)
                continue
            self._turn += 1
            pod = self._endpoints[self._turn % len(self._endpoints)]
            try:
                connection = await connect(pod.port)
            except OSError as error:
                self.failed.append(f"{pod.name}: {error}")
                await asyncio.sleep(0.02)
                continue
            with contextlib.closing(connection):
                for _ in range(KEPT_FOR):
                    over = self._over.is_set() or connection.ended
                    if over or not await self._ask(connection, pod):
                        break
                    await asyncio.sleep(self._pause_s)

    async def _ask(self, connection: Connection, pod: RunningPod) -> bool:
        """Send a request. Returns whether the connection takes another one."""
        connection.send(_REQUEST)
        try:
            async with asyncio.timeout(PATIENCE_S):
                answer = await connection.answer()
        except (Ended, TimeoutError) as error:
            self.failed.append(f"{pod.name}: {error!r}")
            return False
        if answer.status == 200 and answer.whole:
            self.answered.append(answer.id)
            self.served[pod.name] += 1
        else:
            self.failed.append(f"{pod.name}: status {answer.status}")
        return not answer.closes
