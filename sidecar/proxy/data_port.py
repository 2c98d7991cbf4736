"""The data port: the clients' connections, the pool of upstream connections, and deferred jobs."""

import asyncio
from typing import Protocol

from sidecar.metrics import Metrics
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.downstream.client_port import ClientPort
from sidecar.proxy.downstream.listener import Listener
from sidecar.proxy.handler import Handler
from sidecar.proxy.upstream.pool import UpstreamPool


class RunningJobs(Protocol):
    """Deferred jobs, which use the pool as well. They end with the data port."""

    @property
    def running(self) -> int: ...
    def pause(self) -> None:
        """Start no further job."""
        ...

    async def cancel(self) -> None:
        """Cancel the running jobs."""
        ...


class DataPort:
    """Owns the clients' side, the pool, and the end of deferred jobs."""

    def __init__(
        self,
        handler: Handler,
        pool: UpstreamPool,
        bounds: Bounds,
        metrics: Metrics,
        *,
        per_address: int = 0,
        max_age: float = 0.0,
        jobs: RunningJobs | None = None,
    ) -> None:
        self._handler = handler
        self._pool = pool
        self._metrics = metrics
        self._jobs = jobs
        self._clients = ClientPort(
            handler,
            bounds,
            trusts=handler.options.trusts,
            per_address=per_address,
            max_age=max_age,
            on_sweep=pool.sweep,
        )

    @property
    def connections(self) -> int:
        """The number of open client connections, including those in a TLS handshake."""
        return self._clients.connections

    @property
    def unfinished(self) -> set[asyncio.Future[None]]:
        """The responses that are read on for their cost, after their clients left."""
        return self._clients.unfinished

    async def start(self, listener: Listener) -> None:
        """Listen. Raises SettingsError if the address is unavailable."""
        await self._clients.start(listener)
        listener.publish(self._metrics, "sidecar")
        self._clients.publish(self._metrics, "sidecar")
        self._publish()

    def _publish(self) -> None:
        clients = self._clients
        self._metrics.counter(
            "sidecar_connections_evicted",
            "Connections without a request that were closed for a new connection.",
            lambda: clients.limits.evicted,
        )
        self._metrics.gauge(
            "sidecar_pending_header_bytes",
            "Memory of request headers that are not complete yet.",
            lambda: clients.heads.total,
        )
        self._metrics.counter(
            "sidecar_pending_headers_refused",
            "Requests that were refused before their header was complete, to free memory.",
            lambda: clients.heads.given_up,
        )

    @property
    def port(self) -> int:
        """The TCP port, also if the settings ask for port 0; 0 for a unix socket."""
        return self._clients.port

    def announce_end(self) -> None:
        """Accept requests, but close each connection after its response, and start no job."""
        self._clients.draining = True
        if self._jobs is not None:
            self._jobs.pause()

    async def stop(self, delay: float, drain: float, hurry: asyncio.Event) -> None:
        """End without losing a request.

        For `delay` seconds, the port accepts connections, and each response closes its connection,
        so that clients and load balancers move on. Then it accepts none, and running requests have
        `drain` seconds to finish. `hurry` ends both waits.
        """
        clients, jobs = self._clients, self._jobs
        self.announce_end()
        await clients.drain(delay, hurry)
        await clients.end(drain, hurry, self._no_jobs)
        if jobs is not None:
            await jobs.cancel()
        await clients.close()
        self._pool.close()

    def _no_jobs(self) -> bool:
        return self._jobs is None or not self._jobs.running
