"""Limits of client connections: in number, per client address, and in age."""

import ipaddress
import random
from collections.abc import Callable, Hashable
from typing import Final, Generic, NamedTuple, TypeVar

_C = TypeVar("_C", bound=Hashable)
JITTER: Final = 0.1  # of the maximum age, so that connections do not all close at once
GRACE_S: Final = 1.0  # in which an expired connection may end with a response
_V6_NETWORK: Final = 64  # bits: one client usually has the whole network (RFC 6177)


class _Slot(NamedTuple):
    address: str  # "": not counted
    expires_at: float  # loop time; 0: never


class ConnectionLimits(Generic[_C]):
    """The open connections. `refused` counts by reason: full, address, draining.

    `per_address`: the maximum number of connections per client address, where an IPv6 network of
    64 bits is one address; 0: no limit. Connections by a unix socket have no address, and those of
    `exempt` addresses are not counted. `max_age`: seconds after which a connection expires, ± 10 %;
    0: never. If no slot is free, `evict` ends the oldest connection that has not sent a request yet
    (`watch`), and the new one takes its slot.
    """

    def __init__(
        self,
        max_connections: int,
        *,
        per_address: int = 0,
        max_age: float = 0.0,
        uniform: Callable[[float, float], float] = random.uniform,
        exempt: Callable[[str], bool] | None = None,
        evict: Callable[[_C], None] | None = None,
    ) -> None:
        self.closed = False
        self.evicted = 0
        self.refused = {"full": 0, "address": 0, "draining": 0}
        self._max_connections = max_connections
        self._per_address = per_address
        self.max_age = max_age
        self._uniform = uniform
        self._slots: dict[_C, _Slot] = {}
        self._by_address: dict[str, int] = {}
        self._exempt = exempt
        self._evict = evict
        self._silent: dict[_C, None] = {}  # have sent no request yet; the oldest first
        self._silent_of: dict[str, dict[_C, None]] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, connection: _C) -> bool:
        return connection in self._slots

    def all(self) -> list[_C]:
        """A list of the open connections, which does not change as they close."""
        return list(self._slots)

    def take(self, connection: _C, peer: object, now: float) -> bool:
        """Take a slot for a connection. Returns False, and counts a refusal, if no slot is free.

        `peer` is the socket's peer name, `now` the loop's time.
        """
        if self.closed:
            return self._refuse("draining")
        address = self._address(peer)
        if len(self._slots) >= self._max_connections and not self._make_room(self._silent):
            return self._refuse("full")
        if address and self._per_address:
            taken = self._by_address.get(address, 0)
            if taken >= self._per_address:
                if not self._make_room(self._silent_of.get(address, {})):
                    return self._refuse("address")
                taken -= 1
            self._by_address[address] = taken + 1
        expires_at = 0.0
        if self.max_age:
            expires_at = now + self.max_age * self._uniform(1 - JITTER, 1 + JITTER)
        self._slots[connection] = _Slot(address, expires_at)
        return True

    def _address(self, peer: object) -> str:
        if self._exempt is not None and isinstance(peer, tuple) and self._exempt(str(peer[0])):
            return ""
        return _client(peer)

    def _make_room(self, silent: dict[_C, None]) -> bool:
        """End the oldest of these connections. Returns whether there was one."""
        if self._evict is None or not silent:
            return False
        oldest = next(iter(silent))
        self.free(oldest)
        self.evicted += 1
        self._evict(oldest)
        return True

    def address_of(self, connection: _C) -> str:
        """The address that the connection counts for; "" for none."""
        slot = self._slots.get(connection)
        return slot.address if slot is not None else ""

    def watch(self, connection: _C) -> None:
        """Allow that the connection is ended for another one, until `spoke`."""
        slot = self._slots.get(connection)
        if slot is not None:
            self._silent[connection] = None
            if slot.address:
                self._silent_of.setdefault(slot.address, {})[connection] = None

    def spoke(self, connection: _C) -> None:
        """Note that the connection has sent a request. Idempotent."""
        if connection not in self._silent:
            return
        del self._silent[connection]
        address = self.address_of(connection)
        if address:
            silent = self._silent_of[address]
            del silent[connection]
            if not silent:
                del self._silent_of[address]

    def _refuse(self, reason: str) -> bool:
        self.refused[reason] += 1
        return False

    def free(self, connection: _C) -> None:
        """Free the slot of a connection. Idempotent."""
        self.spoke(connection)
        slot = self._slots.pop(connection, None)
        if slot is None or not slot.address or not self._per_address:
            return
        taken = self._by_address[slot.address] - 1
        if taken > 0:
            self._by_address[slot.address] = taken
        else:
            del self._by_address[slot.address]

    def is_expired(self, connection: _C, now: float) -> bool:
        """Whether the connection has reached its maximum age."""
        if not self.max_age:
            return False
        slot = self._slots.get(connection)
        return slot is not None and now >= slot.expires_at

    def is_overdue(self, connection: _C, now: float) -> bool:
        """Whether it expired so long ago that it is closed if it is idle."""
        return self.is_expired(connection, now - GRACE_S)


def _client(peer: object) -> str:
    if not isinstance(peer, tuple):
        return ""
    host = str(peer[0])
    if ":" not in host:
        return host
    host = host.partition("%")[0]
    return str(ipaddress.IPv6Network((host, _V6_NETWORK), strict=False))
