"""The way commands reach Redis: one server, a master that sentinels name, or a cluster."""

import asyncio
import ssl
from typing import Any, Final, Protocol

from sidecar.redis_address import Topology, redis_address
from sidecar.stores.connection.cluster import Cluster
from sidecar.stores.connection.link import Late
from sidecar.stores.connection.sentinel import SentinelWire
from sidecar.stores.connection.wire import Wire


class Connection(Protocol):
    """What the store, the directory and the app know of Redis. Nothing is sent twice that may
    have been executed once."""

    @property
    def up(self) -> bool:
        """Whether all of Redis answers: each shard of a cluster."""
        ...

    @property
    def reachable(self) -> bool:
        """Whether a part of it does. A lost shard must not make a sidecar useless."""
        ...

    @property
    def last_error(self) -> str:
        """Why it is not up, with the address; "" while it is. Holds no password."""
        ...

    @property
    def timeouts(self) -> int:
        """Commands that were not answered in time, so far."""
        ...

    @property
    def reconnects(self) -> int:
        """Connections that were lost and looked for anew, so far."""
        ...

    async def start(self) -> None:
        """Connect, or go on trying in the background: returns after the first attempt."""
        ...

    async def stop(self) -> None:
        """Let go of all connections. Idempotent."""
        ...

    def execute(
        self, command: bytes, late: Late | None = None, slot: int = 0
    ) -> asyncio.Future[Any]:
        """Send encoded bytes to the node that serves `slot` (`slots.slot_of` of the key). The
        future holds the reply (a ReplyError for an error answer) or raises StoreUnavailable.

        `late(reply, link)` gets a reply that nobody waited for any more, and where it came from.
        """
        ...

    def tell(self, command: bytes, slot: int = 0) -> None:
        """Send encoded bytes though nobody waits for the reply, also while `execute` fails fast."""
        ...


_KINDS: Final[dict[Topology, type[Wire] | type[Cluster]]] = {
    "single": Wire, "sentinel": SentinelWire, "cluster": Cluster
}  # fmt: skip


def connect(
    url: str,
    *,
    timeout_s: float = 0.05,
    tls: ssl.SSLContext | None = None,
    quiet: bool = False,
) -> Connection:
    """The connection that the URL asks for, not started yet. `quiet`: another one to the same
    Redis logs when it comes and goes. Raises SettingsError for TLS files that cannot be used,
    ValueError for what is no Redis URL."""
    address = redis_address(url)
    return _KINDS[address.topology](address, timeout_s=timeout_s, tls=tls, quiet=quiet)
