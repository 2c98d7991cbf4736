"""A cluster: one pipelined connection per master, and a map of who serves which slot.

The map is read at the start, every `CHECK_SECONDS`, and soon after anything that contradicts it:
a redirection, a lost node, a cluster that says it is down. A redirected command was not executed,
so it goes on to where it was sent; one that got lost or timed out is never sent again.
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
HURRY_SECONDS: Final = 0.75  # while a part of the cluster does not answer
SPACING_SECONDS: Final = 0.25  # between two readings of the map
MAX_HOPS: Final = 3
MAX_SCRIPTS: Final = 64
TOLD_SECONDS: Final = 1.0  # between two times that all nodes are told of a script
NOT_NOW: Final = ("CLUSTERDOWN", "TRYAGAIN", "LOADING", "MASTERDOWN", "READONLY")
INFO: Final = encode(b"CLUSTER", b"INFO")
WHO_SERVES: Final = encode(b"CLUSTER", b"SLOTS")
SCRIPT_LOAD: Final = encode(b"SCRIPT", b"LOAD", b"").removesuffix(b"$0\r\n\r\n")


class Cluster:
    """Keeps `topology.Connection`."""

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
        self._view = View(healthy=False, epoch=0, ranges=())
        self._why = "not connected yet"
        self._scripts: dict[bytes, float] = {}  # commands that load them; when all were told
        self._former = [0, 0]  # timeouts and reconnects of nodes that were let go of
        self._doubtful = asyncio.Event()
        self._turn = 0
        self._tried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Whether each slot has a master that answers."""
        return not self.last_error

    @property
    def reachable(self) -> bool:
        """Whether some master answers, in a cluster that takes commands."""
        return self._view.healthy and any(node.up for node in self._masters)

    @property
    def last_error(self) -> str:
        """Why it is not up; names the shard."""
        if self._why:
            return self._why
        for node in self._masters:
            if not node.up:
                return f"shard {node.why_not_up}"
        return ""

    @property
    def timeouts(self) -> int:
        """Commands that were not answered in time."""
        return self._former[0] + sum(node.timeouts for node in self._nodes.values())

    @property
    def reconnects(self) -> int:
        """Connections that were lost and looked for anew."""
        return self._former[1] + sum(node.reconnects for node in self._nodes.values())

    async def start(self) -> None:
        """Find the nodes and connect, or go on trying in the background: returns after the first
        attempt."""
        self._task = asyncio.get_running_loop().create_task(self._keep_map())
        await self._tried.wait()

    async def stop(self) -> None:
        """Let go of all connections. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for node in self._nodes.values():
            await node.stop()

    def execute(
        self, command: bytes, late: Late | None = None, slot: int = 0
    ) -> asyncio.Future[Any]:
        """Send encoded bytes to the slot's master; see `topology.Connection`."""
        loop = asyncio.get_running_loop()
        return self._send(
            PendingCommand(loop, command, late, loop.time() + self._timeout, self._answered), slot
        )

    def tell(self, command: bytes, slot: int = 0) -> None:
        """Send encoded bytes though nobody waits for the reply."""
        loop = asyncio.get_running_loop()
        call = PendingCommand(loop, command, None, loop.time() + self._timeout, self._answered)
        call.regardless = True
        self._send(call, slot).add_done_callback(ignore)

    def _send(self, call: PendingCommand, slot: int) -> PendingCommand:
        if call.command.startswith(SCRIPT_LOAD):
            self._learn(call.command)
        node = self._slots[slot]
        if node is None:
            call.fail(self._why or f"no node serves slot {slot}")
        else:
            node.take(call)
        return call

    def _learn(self, script: bytes) -> None:
        """Every node gets every script: who follows a redirection must find it there."""
        now = asyncio.get_running_loop().time()
        told = self._scripts.get(script)
        if told is None and len(self._scripts) >= MAX_SCRIPTS:
            return
        if told is None or now - told > TOLD_SECONDS:
            self._scripts[script] = now
            for node in self._nodes.values():
                node.tell(script)

    def _answered(self, call: PendingCommand, text: str) -> bool:
        to = redirected(text, call.node.address)
        if to is not None:
            self._redirect(call, *to)
            return True
        if text.startswith("NOSCRIPT"):
            call.node.load_scripts()
        if not text.startswith(NOT_NOW):
            return False
        self._doubt()
        call.fail(f"shard {call.node.at}: {text}")
        return True

    def _redirect(self, call: PendingCommand, kind: str, slot: int, to: Address) -> None:
        node = self._node(to)
        if kind == "MOVED":
            self._slots[slot] = node
            self._doubt()
        if call.hops == 0:
            call.get_loop().call_at(call.deadline, call.expire)
        call.hops += 1
        if call.hops > MAX_HOPS:
            call.fail(f"slot {slot} was sent on {MAX_HOPS} times; last to {to}")
        else:
            node.take_redirected(call, asking=kind == "ASK")

    def _node(self, address: Address) -> Node:
        node = self._nodes.get(address)
        if node is None:
            one = replace(self._address, topology="single", nodes=(address,))
            node = Node(
                one, self._scripts, self._doubt,
                timeout_s=self._timeout, tls=self._tls, quiet=self._quiet,
            )  # fmt: skip
            self._nodes[address] = node
            node.begin()
        return node

    def _doubt(self) -> None:
        self._doubtful.set()

    async def _keep_map(self) -> None:
        while True:
            self._doubtful.clear()
            await self._read_map()
            self._tried.set()
            await asyncio.sleep(SPACING_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS if self.up else HURRY_SECONDS):
                    await self._doubtful.wait()

    async def _read_map(self) -> None:
        """From the first node whose view is not behind what was known; else from the best."""
        best, why = None, ""
        for node in self._sources():
            await node.tried.wait()
            try:
                view = await self._view_of(node)
            except StoreUnavailable as error:
                why = why or str(error)
                continue
            if best is None or view.rank > best.rank:
                best = view
            if view.healthy and view.epoch >= self._view.epoch:
                break
        if best is not None:
            await self._adopt(best)
        elif not self._masters and why != self._why:
            if not self._quiet:
                log.warning("redis_cluster_unreachable", error=why)
            self._why = why

    def _sources(self) -> Iterator[Node]:
        """Nodes that answer, another one first each time; then those of the URL."""
        self._turn += 1
        known = [node for node in self._nodes.values() if node.up]
        turn = self._turn % max(len(known), 1)
        yield from known[turn:] + known[:turn]
        for address in self._address.nodes:
            node = self._node(address)
            if node not in known:
                yield node

    async def _view_of(self, node: Node) -> View:
        replies = await asyncio.gather(node.execute(INFO), node.execute(WHO_SERVES))
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise StoreUnavailable(f"{node.at}: {reply.text}")
        try:
            return read_view(*replies, node.address)
        except (TypeError, ValueError, LookupError, AttributeError):
            raise StoreUnavailable(f"{node.at} does not tell who serves which slot") from None

    async def _adopt(self, view: View) -> None:
        masters = {address: self._node(address) for _, _, address in view.ranges}
        slots: list[Node | None] = [None] * SLOTS
        for first, last, address in view.ranges:
            slots[first : last + 1] = [masters[address]] * (last + 1 - first)
        self._slots, self._view = slots, view
        self._masters = tuple(masters.values())
        self._why = _what_is_wrong(view, slots)
        now = asyncio.get_running_loop().time()
        for address, node in list(self._nodes.items()):
            if address not in masters and not node.needed(now):
                del self._nodes[address]
                self._former[0] += node.timeouts
                self._former[1] += node.reconnects
                await node.stop()
        for node in self._masters:
            await node.tried.wait()


def _what_is_wrong(view: View, slots: list[Node | None]) -> str:
    if None in slots:
        return f"no node serves slot {slots.index(None)}"
    return "" if view.healthy else "the cluster says that it is down"
