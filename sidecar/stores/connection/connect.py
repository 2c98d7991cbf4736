"""Connects to Redis: one server, a master that sentinels name, or a cluster."""

import asyncio
import ssl
from typing import Any, Final, Protocol

from sidecar.redis_address import Topology, redis_address
from sidecar.stores.connection.cluster import Cluster
from sidecar.stores.connection.link import Late
from sidecar.stores.connection.sentinel import SentinelWire
from sidecar.stores.connection.wire import Wire


class Connection(Protocol):
    """A connection to Redis. It never repeats a command that may have been executed."""

    @property
    def up(self) -> bool:
        """Whether Redis is available; in a cluster, each shard."""
        ...

    @property
    def reachable(self) -> bool:
        """Whether Redis is available; in a cluster, at least one shard."""
        ...

    @property
    def last_error(self) -> str:
        """The reason why it is not up, with the address and without passwords; "" while it is."""
        ...

    @property
    def timeouts(self) -> int:
        """Number of commands without a reply in time."""
        ...

    @property
    def reconnects(self) -> int:
        """Number of lost connections."""
        ...

    @property
    def shards(self) -> tuple[int, ...]:
        """A slot of each master, for commands to all of them."""
        ...

    async def start(self) -> None:
        """Connect. Returns after the first attempt, and retries in the background."""
        ...

    async def stop(self) -> None:
        """Close all connections. Idempotent."""
        ...

    def execute(
        self, command: bytes, late: Late | None = None, slot: int = 0
    ) -> asyncio.Future[Any]:
        """Send an encoded command to the node that serves `slot` (`slots.slot_of` of the key).

        The future has the reply (a ReplyError for an error), or raises StoreUnavailable.
        `late(reply, link)` gets a reply that comes after that, and its connection.
        """
        ...

    def tell(self, command: bytes, slot: int = 0) -> None:
        """Send an encoded command and ignore the reply, also while `execute` fails fast."""
        ...


_KINDS: Final[dict[Topology, type[Wire] | type[Cluster]]] = {
    "single": Wire,
    "sentinel": SentinelWire,
    "cluster": Cluster,
}


def connect(
    url: str,
    *,
    timeout_s: float = 0.05,
    tls: ssl.SSLContext | None = None,
    quiet: bool = False,
) -> Connection:
    """A connection for the URL, not started yet.

    `quiet`: do not log outages, as another connection to the same Redis does. Raises
    SettingsError for invalid TLS files, ValueError for an invalid URL.
    """
    address = redis_address(url)
    return _KINDS[address.topology](address, timeout_s=timeout_s, tls=tls, quiet=quiet)
