"""A node of a cluster, and a command that may be redirected from one node to another."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final

from sidecar.errors import StoreUnavailable
from sidecar.redis_address import RedisAddress
from sidecar.stores.connection.link import Late, Link, ReplyError, encode, ignore
from sidecar.stores.connection.wire import BREAKER_TIMEOUTS, MAX_IN_FLIGHT, Wire

REDIRECT_SECONDS: Final = 30.0  # for which a node outside the map stays after a redirection
RELOAD_SECONDS: Final = 0.1  # between two loads of all scripts, after NOSCRIPT
ASKING: Final = encode(b"ASKING")


class PendingCommand(asyncio.Future[Any]):
    """The future reply to one command.

    `on_error(command, text)` gets each error reply first, and returns whether the command is
    redirected or has failed.
    """

    node: "Node"  # that it was sent to last
    hops = 0
    always = False  # whether to send it while its node does not answer in time

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        command: bytes,
        late: Late | None,
        deadline: float,
        on_error: "Callable[[PendingCommand, str], bool]",
    ) -> None:
        super().__init__(loop=loop)
        self.command = command
        self.late = late
        self.deadline = deadline
        self._on_error = on_error

    def set_result(self, reply: Any) -> None:
        if type(reply) is not ReplyError or not self._on_error(self, reply.text):
            super().set_result(reply)

    def fail(self, error: str) -> None:
        """Raise StoreUnavailable where the reply is awaited."""
        if not self.done():
            self.set_exception(StoreUnavailable(error))
            self.exception()  # the reply may not be awaited any more

    def expire(self) -> None:
        """Fail at the deadline, which `Wire` does not check for redirected commands."""
        self.fail("Redis did not answer in time")


class Node(Wire):
    """A `Wire` to one node. It calls `doubt()` when the cluster's map may be wrong."""

    def __init__(
        self,
        address: RedisAddress,
        scripts: Iterable[bytes],
        doubt: Callable[[], None],
        **options: Any,
    ) -> None:
        """`scripts`: the load commands of all scripts so far, read again at each use."""
        super().__init__(address, **options)
        self.address = address.nodes[0]
        self._scripts = scripts
        self._doubt = doubt
        # Redirected here before the first attempt to connect has ended
        self._early: list[tuple[PendingCommand, bool]] = []
        self._loaded_at = 0.0
        self._redirected_at = 0.0

    def send(self, pending: PendingCommand) -> None:
        """Send the command, or fail at once as `execute` would."""
        pending.node = self
        link = self._link
        busy = self._overdue >= BREAKER_TIMEOUTS and not pending.always
        if link is None or busy or len(link.waiting) >= MAX_IN_FLIGHT:
            pending.fail(f"shard {self.why_not_up}")
        else:
            link.send_for(pending, pending.command, pending.deadline, pending.late)

    def send_redirected(self, pending: PendingCommand, *, asking: bool) -> None:
        """Send a redirected command, after connecting if the node is new."""
        pending.node = self
        self._redirected_at = pending.get_loop().time()
        if self._link is not None:
            if asking:
                self._link.send(ASKING, pending.deadline).add_done_callback(ignore)
            self.send(pending)
        elif not self.tried.is_set() and len(self._early) < MAX_IN_FLIGHT:
            self._early.append((pending, asking))
        else:
            self.send(pending)

    def load_scripts(self) -> None:
        """Load all scripts, ahead of the next command."""
        link = self._link
        if link is not None and link.loop.time() - self._loaded_at > RELOAD_SECONDS:
            self._loaded_at = link.loop.time()
            for script in self._scripts:
                self.tell(script)

    def needed(self, now: float) -> bool:
        """Whether the node has unanswered commands, or may get redirected ones."""
        return self.awaits_replies or now - self._redirected_at < REDIRECT_SECONDS

    def _connected(self, link: Link) -> None:
        super()._connected(link)
        self._loaded_at = 0.0
        self.load_scripts()
        early, self._early = self._early, []
        for pending, asking in early:
            if not pending.done():
                self.send_redirected(pending, asking=asking)

    def _lost(self, link: Link) -> None:
        super()._lost(link)
        self._doubt()
