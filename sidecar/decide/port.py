"""The decide port: its listener for gateways, and the socket for other workers."""

import asyncio
from typing import Protocol

from sidecar.decide.decisions import Decisions
from sidecar.decide.handler import DecideHandler
from sidecar.decide.peers import Peers
from sidecar.metrics import Metrics
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.downstream.client_port import ClientPort, wait_until
from sidecar.proxy.downstream.listener import Listener


class Server(Protocol):
    """Another server for gateways, which is started on its own."""

    async def stop(self) -> None:
        """End all connections."""
        ...


class DecidePort:
    """Owns the gateways' connections and the end of open decisions.

    `internal` serves the other workers, on a listener of its own; None with one worker. `grpc`:
    asks `decisions`, too.
    """

    def __init__(
        self,
        decisions: Decisions,
        handler: DecideHandler,
        bounds: Bounds,
        *,
        peers: Peers | None = None,
        internal: DecideHandler | None = None,
        grpc: Server | None = None,
    ) -> None:
        self._grpc = grpc
        self._decisions = decisions
        self._peers = peers
        self._gateways = ClientPort(handler, bounds, trusts=_trust, on_sweep=decisions.sweep)
        self._workers: ClientPort | None = None
        if internal is not None:
            self._workers = ClientPort(internal, bounds, trusts=_trust)

    @property
    def connections(self) -> int:
        """The number of open connections of gateways."""
        return self._gateways.connections

    @property
    def port(self) -> int:
        """The TCP port, also if the settings ask for port 0; 0 for a unix socket."""
        return self._gateways.port

    async def start(self, listener: Listener | None, for_workers: Listener | None = None) -> None:
        """Listen. Raises SettingsError if an address is unavailable.

        `listener`: None if gateways ask by gRPC only.
        """
        if self._workers is not None and for_workers is not None:
            await self._workers.start(for_workers)
        if listener is not None:
            await self._gateways.start(listener)

    def publish(self, metrics: Metrics, listener: Listener | None) -> None:
        """Publish the metrics of the decide port."""
        if listener is not None:
            listener.publish(metrics, "sidecar_decide")
        self._gateways.publish(metrics, "sidecar_decide")

    def announce_end(self) -> None:
        """Accept requests, but close each connection after its response."""
        self._gateways.draining = True

    async def stop(self, delay: float, drain: float, hurry: asyncio.Event) -> None:
        """End without losing a decision.

        For `delay` seconds, gateways may ask. Then no request is allowed, and open decisions have
        `drain` seconds to be settled. `hurry` ends both waits.
        """
        loop, decisions = asyncio.get_running_loop(), self._decisions
        self.announce_end()
        await wait_until(loop.time() + delay, hurry, lambda: False)
        decisions.closed = True
        end = loop.time() + drain
        await wait_until(end, hurry, lambda: not decisions.open)
        await self._end(self._gateways, hurry)
        if self._grpc is not None:
            await self._grpc.stop()
        if self._workers is not None:
            await self._end(self._workers, hurry)
        if self._peers is not None:
            await self._peers.close()
        decisions.settle_all()

    async def _end(self, port: ClientPort, hurry: asyncio.Event) -> None:
        await port.drain(0, hurry)
        await port.end(1.0, hurry)  # for the responses that are being written
        await port.close()


def _trust(_address: str) -> bool:
    return True
