"""What an upstream connection needs of its pool."""

from typing import TYPE_CHECKING, Protocol

from sidecar.proxy.bounds import Bounds

if TYPE_CHECKING:
    from sidecar.proxy.upstream.connection import UpstreamConnection


class ConnectionPool(Protocol):
    """What an upstream connection needs of its pool."""

    bounds: Bounds

    def now(self) -> float: ...
    def remove(self, connection: "UpstreamConnection") -> None: ...
