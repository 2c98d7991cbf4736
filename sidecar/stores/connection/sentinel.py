"""A connection to the master that sentinels name, which follows a failover.

The sentinels are asked before each connection, every `CHECK_SECONDS`, and at once after a reply
that a master would not give. The server's own ROLE must agree. So a demoted master is written to
for at most `CHECK_SECONDS` while a sentinel is available, even if it does not know its new role.
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
RECHECK_SECONDS: Final = 0.05  # between checks after doubtful replies
SENTINEL_TIMEOUT_S: Final = 0.5
DOUBTFUL: Final = ("READONLY", "LOADING", "MASTERDOWN")
ROLE: Final = encode(b"ROLE")


class SentinelWire(Wire):
    """Implements `connect.Connection`: a `Wire` that asks sentinels for its server."""

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
        self._queries = (
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
                raise StoreUnavailable("not a master, although the sentinels name it")
        except BaseException:
            link.abort()
            raise
        return link

    async def _find(self) -> Address:
        """The master's address with the highest epoch.

        Raises StoreUnavailable if no sentinel answers with an address.
        """
        answers = await asyncio.gather(*map(self._ask, self._sentinels), return_exceptions=True)
        known = [answer for answer in answers if isinstance(answer, tuple)]
        if known:
            return max(known, key=lambda answer: answer[0])[1]
        errors = ", ".join(str(answer) for answer in answers)
        raise StoreUnavailable(f'no sentinel names the master "{self._master}": {errors}')

    async def _ask(self, sentinel: Wire) -> tuple[int, Address]:
        """A sentinel's configuration epoch, and its address of the master."""
        replies = await asyncio.gather(*map(sentinel.execute, self._queries))
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise StoreUnavailable(f"{sentinel.at}: {reply.text}")
        address, record = replies
        try:
            fields = dict(zip(record[::2], record[1::2], strict=True))
            return int(fields[b"config-epoch"]), Address(address[0].decode(), int(address[1]))
        except (TypeError, ValueError, LookupError, AttributeError):
            raise StoreUnavailable(
                f'{sentinel.at} does not know a master "{self._master}"'
            ) from None

    async def _is_master(self, link: Link, timeout_s: float) -> bool:
        """Whether the server reports to be a master. Raises StoreUnavailable for an error reply."""
        role: Any = await link.send(ROLE, link.loop.time() + timeout_s)
        if isinstance(role, ReplyError):
            raise StoreUnavailable(f"Redis refused ROLE: {role.text}")
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
                    log.warning("redis_master_changed", former_master=str(self.at))
                link.abort()
            await asyncio.sleep(RECHECK_SECONDS)

    async def _still_master(self, link: Link) -> bool:
        """False if the sentinels name another master, or the server reports another role."""
        with contextlib.suppress(StoreUnavailable):  # without sentinels, the role decides
            if await self._find() != self.at:
                return False
        try:
            return await self._is_master(link, self._timeout)
        except StoreUnavailable:
            return True  # lost or overdue: the wire handles that


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
