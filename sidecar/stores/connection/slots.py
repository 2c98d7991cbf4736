"""The slots of a cluster: the slot of a Redis key, and a node's map from slots to masters.

Cluster specification: the slot is the CRC16 (XMODEM) of the hash tag, modulo 16384.
"""

from binascii import crc_hqx
from dataclasses import dataclass
from typing import Any, Final

from sidecar.addresses import Address

SLOTS: Final = 16_384


def slot_of(key: str) -> int:
    """The slot of a Redis key, 0 to 16383. Keys with the same hash tag are in the same slot."""
    data = key.encode()
    start = data.find(b"{")
    if start >= 0:
        end = data.find(b"}", start + 1)
        if end > start + 1:
            data = data[start + 1 : end]
    return crc_hqx(data, 0) % SLOTS


@dataclass(frozen=True, slots=True)
class View:
    """One node's view of the cluster."""

    healthy: bool  # the node can reach a majority
    epoch: int  # rises with each failover and each slot that moved
    ranges: tuple[tuple[int, int, Address], ...]  # first slot, last slot, master

    @property
    def rank(self) -> tuple[bool, int]:
        """The order of views: the highest one is valid."""
        return self.healthy, self.epoch


def read_view(info: bytes, slots: list[Any], asked: Address) -> View:
    """Read the replies to CLUSTER INFO and CLUSTER SLOTS of the node at `asked`.

    A master without a host is at the host of `asked`. Raises ValueError, TypeError or LookupError
    for invalid replies.
    """
    pairs = (line.partition(":") for line in info.decode().splitlines())
    facts = {name: value for name, _, value in pairs}
    ranges = tuple(
        (int(first), int(last), _node(master[0], int(master[1]), asked))
        for first, last, master, *_ in slots
        if master[0] != b"?"  # the node does not know its address yet
    )
    if not all(0 <= first <= last < SLOTS for first, last, _ in ranges):
        raise ValueError("slot out of range")
    healthy = facts["cluster_state"] == "ok"
    return View(healthy, int(facts["cluster_current_epoch"]), ranges)


def redirected(text: str, asked: Address) -> tuple[str, int, Address] | None:
    """Kind, slot and node of "MOVED 3999 127.0.0.1:6381" or "ASK …"; None for other errors."""
    kind, _, rest = text.partition(" ")
    if kind not in ("MOVED", "ASK"):
        return None
    slot, _, where = rest.partition(" ")
    host, _, port = where.rpartition(":")
    if not (slot.isdecimal() and port.isdecimal() and int(slot) < SLOTS):
        return None
    return kind, int(slot), _node(host.encode(), int(port), asked)


def _node(host: bytes | None, port: int, asked: Address) -> Address:
    """A node's address in a reply of the node at `asked`, whose host is the default."""
    return Address(host.decode() if host else asked.host, port)
