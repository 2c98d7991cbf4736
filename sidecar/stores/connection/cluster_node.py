"""A master of a cluster, and a command on its way to it or from one to another."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final

from sidecar.errors import StoreUnavailable
from sidecar.redis_address import RedisAddress
from sidecar.stores.connection.link import Late, Link, ReplyError, encode, ignore
from sidecar.stores.connection.wire import BREAKER_TIMEOUTS, MAX_IN_FLIGHT, Wire

KEPT_SECONDS: Final = 30.0  # a node that a redirection named, though the map does not
LOADED_SECONDS: Final = 0.1  # between two loads of all scripts that NOSCRIPT asks for
ASKING: Final = encode(b"ASKING")


class PendingCommand(asyncio.Future[Any]):
    """The reply to one command. `answered(call, text)` sees each error reply first: True says
    that the call goes on elsewhere, or has failed."""

    node: "Node"  # where it was sent last
    hops = 0
    regardless = False  # whether to send it also while its node seems to stand still

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        command: bytes,
        late: Late | None,
        deadline: float,
        answered: "Callable[[PendingCommand, str], bool]",
    ) -> None:
        super().__init__(loop=loop)
        self.command = command
        self.late = late
        self.deadline = deadline
        self._answered = answered

    def set_result(self, reply: Any) -> None:
        if type(reply) is not ReplyError or not self._answered(self, reply.text):
            super().set_result(reply)

    def fail(self, why: str) -> None:
        """StoreUnavailable for who waits, if somebody still does."""
        if not self.done():
            self.set_exception(StoreUnavailable(why))
            self.exception()  # somebody may have stopped listening

    def expire(self) -> None:
        """The deadline: `Wire` does not keep it for a call that came from elsewhere."""
        self.fail("Redis did not answer in time")


class Node(Wire):
    """A `Wire` to one node. `doubt()` is called when the map of the cluster may be wrong."""

    def __init__(
        self,
        address: RedisAddress,
        scripts: Iterable[bytes],
        doubt: Callable[[], None],
        **options: Any,
    ) -> None:
        """`scripts`: commands that load the scripts known so far; looked at again and again."""
        super().__init__(address, **options)
        self.address = address.nodes[0]
        self._scripts = scripts
        self._doubt = doubt
        self._held: list[
            tuple[PendingCommand, bool]
        ] = []  # sent here before the first attempt to connect
        self._loaded_at = 0.0
        self._named_at = 0.0

    def take(self, call: PendingCommand) -> None:
        """Send it, or fail at once as `execute` would."""
        call.node = self
        link = self._link
        busy = self._overdue >= BREAKER_TIMEOUTS and not call.regardless
        if link is None or busy or len(link.waiting) >= MAX_IN_FLIGHT:
            call.fail(f"shard {self.why_not_up}")
        else:
            link.send_for(call, call.command, call.deadline, call.late)

    def take_redirected(self, call: PendingCommand, *, asking: bool) -> None:
        """The same for what another node sent here; a node that was not known is waited for."""
        call.node = self
        self._named_at = call.get_loop().time()
        if self._link is not None:
            if asking:
                self._link.send(ASKING, call.deadline).add_done_callback(ignore)
            self.take(call)
        elif not self.tried.is_set() and len(self._held) < MAX_IN_FLIGHT:
            self._held.append((call, asking))
        else:
            self.take(call)

    def load_scripts(self) -> None:
        """Send all scripts that are known, ahead of what comes next."""
        link = self._link
        if link is not None and link.loop.time() - self._loaded_at > LOADED_SECONDS:
            self._loaded_at = link.loop.time()
            for script in self._scripts:
                self.tell(script)

    def needed(self, now: float) -> bool:
        """Whether something is under way, or may be sent here by another node."""
        return self.awaits_replies or now - self._named_at < KEPT_SECONDS

    def _connected(self, link: Link) -> None:
        super()._connected(link)
        self._loaded_at = 0.0
        self.load_scripts()
        held, self._held = self._held, []
        for call, asking in held:
            if not call.done():
                self.take_redirected(call, asking=asking)

    def _lost(self, link: Link) -> None:
        super()._lost(link)
        self._doubt()
