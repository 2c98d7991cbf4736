"""A connection to a cluster: one pipelined connection per master, and a map from slots to masters.

The map is read at the start, every `CHECK_SECONDS`, and soon after a contradiction: a redirection,
a lost node, or a cluster that reports to be down. A redirected command was not executed, so it is
sent to the named node. A lost or timed-out command is never repeated.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from sidecar.addresses import Address
from sidecar.errors import StoreUnavailable
from sidecar.logs import logger
from sidecar.redis_address import RedisAddress, redis_address
from sidecar.stores.connection.cluster_node import Node, PendingCommand
from sidecar.stores.connection.link import Late, ReplyError, encode, ignore
from sidecar.stores.connection.slots import SLOTS, View, read_view, redirected
from sidecar.stores.connection.tls import tls_context

log = logger("stores")

CHECK_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 0.75  # instead, while a shard is unavailable
PAUSE_SECONDS: Final = 0.25  # after each reading of the map
MAX_HOPS: Final = 3
MAX_SCRIPTS: Final = 64
LOADED_SECONDS: Final = 1.0  # between two loads of a script into all nodes
UNAVAILABLE: Final = ("CLUSTERDOWN", "TRYAGAIN", "LOADING", "MASTERDOWN", "READONLY")
INFO: Final = encode(b"CLUSTER", b"INFO")
SLOT_MAP: Final = encode(b"CLUSTER", b"SLOTS")
SCRIPT_LOAD: Final = encode(b"SCRIPT", b"LOAD", b"").removesuffix(b"$0\r\n\r\n")


class Cluster:
    """Implements `connect.Connection`."""

    def __init__(
        self,
        url: str | RedisAddress,
        *,
        timeout_s: float = 0.05,
        tls: ssl.SSLContext | None = None,
        quiet: bool = False,
    ) -> None:
        self._address = redis_address(url) if isinstance(url, str) else url
        self._tls = (tls or tls_context(self._address)) if self._address.tls else None
        self._timeout = timeout_s
        self._quiet = quiet
        self._nodes: dict[Address, Node] = {}
        self._slots: list[Node | None] = [None] * SLOTS
        self._masters: tuple[Node, ...] = ()
        self.shards: tuple[int, ...] = ()  # a slot of each master
        self._view = View(healthy=False, epoch=0, ranges=())
        self._error = "not connected yet"
        self._unreachable = False  # and logged
        self._scripts: dict[bytes, float] = {}  # load command → when all nodes got it
        self._former = [0, 0]  # timeouts and reconnects of removed nodes
        self._map_doubtful = asyncio.Event()
        self._turn = 0
        self._tried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Whether each slot has a master that is available."""
        return not self.last_error

    @property
    def reachable(self) -> bool:
        """Whether a master is available, in a cluster that takes commands."""
        return self._view.healthy and any(node.up for node in self._masters)

    @property
    def last_error(self) -> str:
        """The reason why it is not up, with the shard."""
        if self._error:
            return self._error
        for node in self._masters:
            if not node.up:
                return f"shard {node.why_not_up}"
        return ""

    @property
    def timeouts(self) -> int:
        """Number of commands without a reply in time."""
        return self._former[0] + sum(node.timeouts for node in self._nodes.values())

    @property
    def reconnects(self) -> int:
        """Number of lost connections."""
        return self._former[1] + sum(node.reconnects for node in self._nodes.values())

    async def start(self) -> None:
        """Find and connect to the nodes. Returns after the first attempt, and keeps trying."""
        self._task = asyncio.get_running_loop().create_task(self._keep_map())
        await self._tried.wait()

    async def stop(self) -> None:
        """Close all connections. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for node in self._nodes.values():
            await node.stop()

    def execute(
        self, command: bytes, late: Late | None = None, slot: int = 0
    ) -> asyncio.Future[Any]:
        """Send an encoded command to the slot's master; see `connect.Connection`."""
        loop = asyncio.get_running_loop()
        return self._send(
            PendingCommand(loop, command, late, loop.time() + self._timeout, self._on_error), slot
        )

    def tell(self, command: bytes, slot: int = 0) -> None:
        """Send an encoded command and ignore the reply."""
        loop = asyncio.get_running_loop()
        pending = PendingCommand(loop, command, None, loop.time() + self._timeout, self._on_error)
        pending.always = True
        self._send(pending, slot).add_done_callback(ignore)

    def _send(self, pending: PendingCommand, slot: int) -> PendingCommand:
        if pending.command.startswith(SCRIPT_LOAD):
            self._load_everywhere(pending.command)
        node = self._slots[slot]
        if node is None:
            pending.fail(self._error or f"no node serves slot {slot}")
        else:
            node.send(pending)
        return pending

    def _load_everywhere(self, script: bytes) -> None:
        """Load a script into every node, as redirected commands need it there."""
        now = asyncio.get_running_loop().time()
        loaded_at = self._scripts.get(script)
        if loaded_at is None and len(self._scripts) >= MAX_SCRIPTS:
            return
        if loaded_at is None or now - loaded_at > LOADED_SECONDS:
            self._scripts[script] = now
            for node in self._nodes.values():
                node.tell(script)

    def _on_error(self, pending: PendingCommand, text: str) -> bool:
        """Handle an error reply; whether the command is redirected or has failed."""
        to = redirected(text, pending.node.address)
        if to is not None:
            self._redirect(pending, *to)
            return True
        if text.startswith("NOSCRIPT"):
            pending.node.load_scripts()
        if not text.startswith(UNAVAILABLE):
            return False
        self._doubt()
        pending.fail(f"shard {pending.node.at}: {text}")
        return True

    def _redirect(self, pending: PendingCommand, kind: str, slot: int, to: Address) -> None:
        node = self._node(to)
        if kind == "MOVED":
            self._slots[slot] = node
            self._doubt()
        if pending.hops == 0:
            pending.get_loop().call_at(pending.deadline, pending.expire)
        pending.hops += 1
        if pending.hops > MAX_HOPS:
            pending.fail(f"slot {slot} was redirected {MAX_HOPS} times, last to {to}")
        else:
            node.send_redirected(pending, asking=kind == "ASK")

    def _node(self, address: Address) -> Node:
        node = self._nodes.get(address)
        if node is None:
            one = replace(self._address, topology="single", nodes=(address,))
            node = Node(
                one,
                self._scripts,
                self._doubt,
                timeout_s=self._timeout,
                tls=self._tls,
                quiet=self._quiet,
            )
            self._nodes[address] = node
            node.begin()
        return node

    def _doubt(self) -> None:
        self._map_doubtful.set()

    async def _keep_map(self) -> None:
        while True:
            self._map_doubtful.clear()
            await self._read_map()
            self._tried.set()
            await asyncio.sleep(PAUSE_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS if self.up else RETRY_SECONDS):
                    await self._map_doubtful.wait()

    async def _read_map(self) -> None:
        """Read the map from the first node that is up to date, otherwise from the best one."""
        best, failure = None, ""
        for node in self._sources():
            await node.tried.wait()
            try:
                view = await self._view_of(node)
            except StoreUnavailable as error:
                failure = failure or str(error)
                continue
            if best is None or view.rank > best.rank:
                best = view
            if view.healthy and view.epoch >= self._view.epoch:
                break
        if best is not None:
            await self._adopt(best)
        elif not self._masters and failure != self._error:
            if not self._quiet:
                log.warning("redis_cluster_unreachable", error=failure)
                self._unreachable = True
            self._error = failure

    def _sources(self) -> Iterator[Node]:
        """Nodes that are available, starting with another one each time; then those of the URL."""
        self._turn += 1
        available = [node for node in self._nodes.values() if node.up]
        turn = self._turn % max(len(available), 1)
        yield from available[turn:] + available[:turn]
        for address in self._address.nodes:
            node = self._node(address)
            if node not in available:
                yield node

    async def _view_of(self, node: Node) -> View:
        replies = await asyncio.gather(node.execute(INFO), node.execute(SLOT_MAP))
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise StoreUnavailable(f"{node.at}: {reply.text}")
        try:
            return read_view(*replies, node.address)
        except (TypeError, ValueError, LookupError, AttributeError):
            raise StoreUnavailable(f"{node.at} answers with an invalid slot map") from None

    async def _adopt(self, view: View) -> None:
        masters = {address: self._node(address) for _, _, address in view.ranges}
        slots: list[Node | None] = [None] * SLOTS
        for first, last, address in view.ranges:
            slots[first : last + 1] = [masters[address]] * (last + 1 - first)
        self._slots, self._view = slots, view
        self._masters = tuple(masters.values())
        self.shards = tuple({address: first for first, _, address in view.ranges}.values())
        if self._unreachable:
            log.info("redis_cluster_reachable")
            self._unreachable = False
        self._error = _map_error(view, slots)
        now = asyncio.get_running_loop().time()
        for address, node in list(self._nodes.items()):
            if address not in masters and not node.needed(now):
                del self._nodes[address]
                self._former[0] += node.timeouts
                self._former[1] += node.reconnects
                await node.stop()
        for node in self._masters:
            await node.tried.wait()


def _map_error(view: View, slots: list[Node | None]) -> str:
    if None in slots:
        return f"no node serves slot {slots.index(None)}"
    return "" if view.healthy else "the cluster reports that it is down"
