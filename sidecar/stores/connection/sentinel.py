"""The master that the sentinels name, followed when they name another.

The sentinels are asked before each connection, every `CHECK_SECONDS`, and at once when the
server answers like one that is no master any more. Its own ROLE must agree. So a master that was
demoted, also one that does not know it yet, is written to for `CHECK_SECONDS` at the most while
a sentinel can be asked.
"""

import asyncio
import contextlib
import ssl
from dataclasses import replace
from typing import Any, Final

from sidecar.addresses import Address
from sidecar.errors import StoreUnavailable
from sidecar.logs import logger
from sidecar.redis_address import RedisAddress, redis_address
from sidecar.stores.connection.link import Link, ReplyError, encode
from sidecar.stores.connection.wire import CONNECT_SECONDS, Wire

log = logger("stores")

CHECK_SECONDS: Final = 1.0
RECHECK_SECONDS: Final = 0.05  # between checks that doubtful replies ask for
SENTINEL_TIMEOUT_S: Final = 0.5
DOUBTFUL: Final = ("READONLY", "LOADING", "MASTERDOWN")
ROLE: Final = encode(b"ROLE")


class SentinelWire(Wire):
    """Keeps `topology.Connection`: a `Wire` that finds its server."""

    def __init__(
        self,
        url: str | RedisAddress,
        *,
        timeout_s: float = 0.05,
        tls: ssl.SSLContext | None = None,
        quiet: bool = False,
    ) -> None:
        address = redis_address(url) if isinstance(url, str) else url
        super().__init__(address, timeout_s=timeout_s, tls=tls, quiet=quiet)
        self._master = address.master
        self._questions = (
            encode(b"SENTINEL", b"get-master-addr-by-name", address.master),
            encode(b"SENTINEL", b"MASTER", address.master),
        )
        self._sentinels = [
            Wire(_sentinel(address, node), timeout_s=SENTINEL_TIMEOUT_S, tls=self._tls, quiet=quiet)
            for node in address.nodes
        ]
        self._doubt = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None

    def begin(self) -> None:
        for sentinel in self._sentinels:
            sentinel.begin()
        super().begin()
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
        await super().stop()
        for sentinel in self._sentinels:
            await sentinel.stop()

    def _new_link(self) -> Link:
        return Link(self._lost, self._timeout, self._error)

    def _error(self, text: str) -> ReplyError:
        if text.startswith(DOUBTFUL):
            self._doubt.set()
        return ReplyError(text)

    async def _connect(self) -> Link:
        for sentinel in self._sentinels:
            await sentinel.tried.wait()
        self.at = await self._find()
        return await super()._connect()

    async def _greet(self, link: Link) -> Link:
        await super()._greet(link)
        try:
            if not await self._is_master(link, CONNECT_SECONDS):
                raise StoreUnavailable("it is no master, whatever the sentinels say")
        except BaseException:
            link.abort()
            raise
        return link

    async def _find(self) -> Address:
        """Where most is known of the master: the answer with the highest epoch. Raises
        StoreUnavailable when no sentinel answers with one."""
        answers = await asyncio.gather(*map(self._ask, self._sentinels), return_exceptions=True)
        known = [answer for answer in answers if isinstance(answer, tuple)]
        if known:
            return max(known, key=lambda answer: answer[0])[1]
        why = "; ".join(str(answer) for answer in answers)
        raise StoreUnavailable(f"no sentinel names the master {self._master}: {why}")

    async def _ask(self, sentinel: Wire) -> tuple[int, Address]:
        """The epoch of a sentinel's knowledge, and where it says that the master is."""
        replies = await asyncio.gather(*map(sentinel.execute, self._questions))
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise StoreUnavailable(f"{sentinel.at}: {reply.text}")
        where, record = replies
        try:
            fields = dict(zip(record[::2], record[1::2], strict=True))
            return int(fields[b"config-epoch"]), Address(where[0].decode(), int(where[1]))
        except (TypeError, ValueError, LookupError, AttributeError):
            raise StoreUnavailable(f"{sentinel.at} knows no master {self._master}") from None

    async def _is_master(self, link: Link, timeout_s: float) -> bool:
        """What the server says of itself. Raises StoreUnavailable when it does not tell."""
        role: Any = await link.send(ROLE, link.loop.time() + timeout_s)
        if isinstance(role, ReplyError):
            raise StoreUnavailable(f"it does not tell its role: {role.text}")
        return bool(role[0] == b"master")

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS):
                    await self._doubt.wait()
            self._doubt.clear()
            link = self._link
            if link is not None and not await self._still_master(link):
                if not self._quiet:
                    log.warning("redis_master_changed", former=str(self.at))
                link.abort()
            await asyncio.sleep(RECHECK_SECONDS)

    async def _still_master(self, link: Link) -> bool:
        """False when the sentinels name another one, or the server itself says so."""
        with contextlib.suppress(StoreUnavailable):  # no sentinel: the role alone decides
            if await self._find() != self.at:
                return False
        try:
            return await self._is_master(link, self._timeout)
        except StoreUnavailable:
            return True  # lost or overdue: the wire itself sees to that


def _sentinel(address: RedisAddress, node: Address) -> RedisAddress:
    return replace(
        address,
        topology="single",
        nodes=(node,),
        master="",
        database=0,
        username=address.sentinel_username,
        password=address.sentinel_password,
    )
