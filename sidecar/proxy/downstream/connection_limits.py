"""Who may hold a connection, and for how long: one place each, bounded in number and in age."""

import ipaddress
import random
from collections.abc import Callable, Hashable
from typing import Final, Generic, NamedTuple, TypeVar

_C = TypeVar("_C", bound=Hashable)
JITTER: Final = 0.1  # of the age: connections that came together do not all leave together
GRACE_S: Final = 1.0  # in which a busy client gets an answer that says goodbye
_V6_NETWORK: Final = 64  # bits: one client has all the addresses of such a network (RFC 6177)


class _Place(NamedTuple):
    address: str  # "" when it is not counted
    expires_at: float  # loop time; 0: never


class ConnectionLimits(Generic[_C]):
    """The connections that are open. `refused` counts by reason: full, address, draining.

    `per_address`: how many one client address may hold, an IPv6 network of 64 bits being one
    address; 0 for any number. Clients of a unix socket have none and are not counted.
    `max_age`: seconds after which a connection is old, ± 10 %; 0 for never.
    """

    def __init__(
        self,
        room: int,
        *,
        per_address: int = 0,
        max_age: float = 0.0,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.closed = False
        self.refused = {"full": 0, "address": 0, "draining": 0}
        self._room = room
        self._per_address = per_address
        self._max_age = max_age
        self._uniform = uniform
        self._taken: dict[_C, _Place] = {}
        self._by_address: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._taken)

    def __contains__(self, connection: _C) -> bool:
        return connection in self._taken

    def all(self) -> list[_C]:
        """Everybody who is here now; the list stays as it is while they leave."""
        return list(self._taken)

    def take(self, connection: _C, peer: object, now: float) -> bool:
        """Give it a place. False, and counted, when there is none for it.

        `peer` is the socket's peer name; `now` the loop's time, in seconds.
        """
        if self.closed:
            return self._refuse("draining")
        if len(self._taken) >= self._room:
            return self._refuse("full")
        address = _client(peer) if self._per_address else ""
        if address:
            held = self._by_address.get(address, 0)
            if held >= self._per_address:
                return self._refuse("address")
            self._by_address[address] = held + 1
        expires_at = 0.0
        if self._max_age:
            expires_at = now + self._max_age * self._uniform(1 - JITTER, 1 + JITTER)
        self._taken[connection] = _Place(address, expires_at)
        return True

    def _refuse(self, reason: str) -> bool:
        self.refused[reason] += 1
        return False

    def free(self, connection: _C) -> None:
        """It has left. Idempotent."""
        place = self._taken.pop(connection, None)
        if place is None or not place.address:
            return
        held = self._by_address[place.address] - 1
        if held:
            self._by_address[place.address] = held
        else:
            del self._by_address[place.address]

    def is_expired(self, connection: _C, now: float) -> bool:
        """Whether it has been here for its time."""
        if not self._max_age:
            return False
        place = self._taken.get(connection)
        return place is not None and now >= place.expires_at

    def is_overdue(self, connection: _C, now: float) -> bool:
        """Whether it has been old for so long that it is closed if it is idle."""
        return self.is_expired(connection, now - GRACE_S)


def _client(peer: object) -> str:
    if not isinstance(peer, tuple):
        return ""
    host = str(peer[0])
    if ":" not in host:
        return host
    host = host.partition("%")[0]
    return str(ipaddress.IPv6Network((host, _V6_NETWORK), strict=False))
