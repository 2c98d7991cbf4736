"""The memory of unfinished heads: bounded per client address, and in all.

A head that arrives in one piece is never counted. If there is too much, the oldest one is given up:
an honest client completes its head soon, and one that is slow on purpose does not.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

_C = TypeVar("_C", bound=Hashable)


class PendingHeads(Generic[_C]):
    """Estimated bytes of unfinished heads. `given_up` counts the connections that were ended.

    `most`: bytes in all; `per_address`: bytes of one client address. Connections whose address is
    "" count only in all.
    """

    def __init__(self, most: int, per_address: int) -> None:
        self.total = 0
        self.given_up = 0
        self._most = most
        self._per_address = per_address
        self._heads: dict[_C, tuple[str, int]] = {}  # address and size, the oldest head first
        self._by_address: dict[str, dict[_C, int]] = {}
        self._totals: dict[str, int] = {}

    def change(self, connection: _C, address: str, size: int) -> list[_C]:
        """Note the size of a head; 0: complete. Returns the connections to end, now forgotten."""
        if not size:
            self.remove(connection)
            return []
        grown = size - self._heads.get(connection, ("", 0))[1]
        self._heads[connection] = (address, size)
        self.total += grown
        given_up: list[_C] = []
        if address:
            heads = self._by_address.setdefault(address, {})
            heads[connection] = size
            self._totals[address] = self._totals.get(address, 0) + grown
            while self._totals.get(address, 0) > self._per_address:
                given_up.append(next(iter(heads)))
                self.remove(given_up[-1])
        while self.total > self._most:
            given_up.append(next(iter(self._heads)))
            self.remove(given_up[-1])
        self.given_up += len(given_up)
        return given_up

    def remove(self, connection: _C) -> None:
        """Forget a head. Idempotent."""
        address, size = self._heads.pop(connection, ("", 0))
        self.total -= size
        if not address:
            return
        heads = self._by_address[address]
        del heads[connection]
        self._totals[address] -= size
        if not heads:
            del self._by_address[address], self._totals[address]
