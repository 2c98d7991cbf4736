"""What a client connection needs of its owner, and of a tunnel through it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from sidecar.proxy.bounds import Bounds
from sidecar.proxy.downstream.faults import Fault
from sidecar.proxy.downstream.request import Request

if TYPE_CHECKING:
    from sidecar.proxy.downstream.connection import ClientConnection


class ConnectionOwner(Protocol):
    """What client connections share: bounds, the handler, and the set of open connections."""

    bounds: Bounds
    draining: bool
    unfinished: set[asyncio.Future[None]]  # responses that are read after their client left
    trusts: Callable[[str], bool]  # whether an address is that of a trusted proxy

    def opened(self, connection: "ClientConnection", peer: object) -> bool:
        """Whether a new connection may stay. `peer` is the socket's peer name."""
        ...

    def closed(self, connection: "ClientConnection") -> None: ...
    def head_pending(self, connection: "ClientConnection", size: int) -> None:
        """Note the estimated memory of an unfinished head, in bytes; 0: it is complete."""
        ...

    def handle(self, request: Request, connection: "ClientConnection") -> Awaitable[bool]:
        """Serve one request. Returns whether the connection can serve another."""
        ...

    def answer_fault(
        self, fault: Fault, request: Request | None, connection: "ClientConnection"
    ) -> None:
        """Reply to an invalid message; `request` is what could be parsed of it."""
        ...

    def handle_error(
        self, error: Exception, request: Request | None, connection: "ClientConnection"
    ) -> None:
        """Log an internal error and reply. `request` is the one that was being served."""
        ...


class DownstreamTunnel(Protocol):
    """The receiver of the client's bytes after a switch of protocols."""

    def from_client(self, data: bytes) -> None: ...
    def client_ended(self) -> None: ...
    def going_away(self) -> None: ...
