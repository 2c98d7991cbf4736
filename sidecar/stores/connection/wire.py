"""One pipelined connection to Redis for everything that happens per request.

The commands of a loop tick leave in few writes; replies come back in order and meet their
futures in a queue. A command that times out keeps its place in that queue, so a late reply is
thrown away and never handed to somebody else.
"""

import asyncio
import contextlib
import ssl
from typing import Any, Final

from sidecar.addresses import UnixPath
from sidecar.errors import StoreUnavailable
from sidecar.logs import logger
from sidecar.redis_address import RedisAddress, redis_address
from sidecar.stores.connection.link import PING, Late, Link, ReplyError, bulk, encode
from sidecar.stores.connection.tls import tls_context

__all__ = ["PING", "Late", "ReplyError", "Wire", "bulk", "encode"]

log = logger("stores")

MAX_IN_FLIGHT: Final = 20_000
BREAKER_TIMEOUTS: Final = 3  # in a row, then calls fail at once until a PING is answered
PROBE_SECONDS: Final = 0.1
STALLED_SECONDS: Final = 1.0  # a reply overdue for this long: the connection is given up
ASIDE_SECONDS: Final = 60.0  # for which late replies are heard on one that was
MOST_ASIDE: Final = 4
CONNECT_SECONDS: Final = 2.0
BACKOFF_SECONDS: Final = (0.05, 0.1, 0.2, 0.5, 1.0)


class Wire:
    """Keeps one link alive and fails fast while there is none. Keeps `topology.Connection`."""

    def __init__(
        self,
        url: str | RedisAddress,
        *,
        timeout_s: float = 0.05,
        tls: ssl.SSLContext | None = None,
        quiet: bool = False,
    ) -> None:
        """`tls` instead of what the URL says of it; `quiet`: somebody else logs when Redis comes
        and goes. Raises SettingsError for TLS files that
        cannot be used, ValueError for what is no Redis URL."""
        address = redis_address(url) if isinstance(url, str) else url
        self.at = address.at
        self._tls = (tls or tls_context(address)) if address.tls else None
        self._hello = _hello(address)
        self._timeout = timeout_s
        self._quiet = quiet
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._gone = asyncio.Event()
        self._aside: list[tuple[float, Link]] = []  # given up, and until when each is heard
        self._overdue = 0  # commands in a row that timed out
        self._probe_at = 0.0
        self.tried = asyncio.Event()  # the first attempt to connect is over
        self.last_error = ""
        self.timeouts = 0
        self.reconnects = 0

    @property
    def up(self) -> bool:
        """Whether there is a connection and it answers."""
        return self._link is not None and self._overdue < BREAKER_TIMEOUTS

    @property
    def reachable(self) -> bool:
        """The same: one server has no parts."""
        return self.up

    @property
    def why_not_up(self) -> str:
        """With the address."""
        return self.last_error or f"{self._where}: Redis does not answer in time"

    async def start(self) -> None:
        """Connect, or go on trying in the background: returns after the first attempt."""
        self.begin()
        await self.tried.wait()

    def begin(self) -> None:
        """`start` without waiting."""
        self._task = asyncio.get_running_loop().create_task(self._keep_connected())
        self._sweep()

    async def stop(self) -> None:
        """Let go of all connections. Idempotent."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        link, self._link = self._link, None
        if link is not None:
            link.abort()
        while self._aside:
            self._aside.pop()[1].abort()

    def execute(
        self,
        command: bytes,
        late: Late | None = None,
        slot: int = 0,  # noqa: ARG002 - for a cluster
    ) -> asyncio.Future[Any]:
        """Send encoded bytes. The future holds the reply (a ReplyError for an error answer), or
        raises StoreUnavailable: no connection, too much in flight, or no reply in time.

        `late(reply, link)` gets a reply that nobody waited for any more, and where it came from.
        """
        link = self._link
        if link is None or self._overdue >= BREAKER_TIMEOUTS or len(link.waiting) >= MAX_IN_FLIGHT:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            future.set_exception(StoreUnavailable(self.why_not_up))
            return future
        return link.send(command, link.loop.time() + self._timeout, late)

    def tell(self, command: bytes, slot: int = 0) -> None:  # noqa: ARG002 - for a cluster
        """Send encoded bytes though nobody waits for the reply, also while `execute` fails fast:
        a link whose late replies come in answers again. Without a link nothing is sent."""
        link = self._link
        if link is not None:
            link.tell(command)

    @property
    def awaits_replies(self) -> bool:
        """Whether something is under way, though it may be late."""
        return bool(self._aside) or (self._link is not None and bool(self._link.waiting))

    async def _keep_connected(self) -> None:
        failures = 0
        while True:
            try:
                link = await self._connect()
            except StoreUnavailable as error:
                self.last_error = str(error)
                if failures == 0 and not self._quiet:
                    log.warning("redis_unreachable", error=self.last_error)
                wait = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)]
                failures += 1
                self.tried.set()
                await asyncio.sleep(wait)
                continue
            if failures and not self._quiet:
                log.info("redis_reachable")
            failures = 0
            self._gone.clear()
            self._connected(link)
            self.tried.set()
            await self._gone.wait()
            self.reconnects += 1

    async def _connect(self) -> Link:
        """A link that answered a PING. Raises StoreUnavailable."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return await self._greet(await self._open())
        except StoreUnavailable as refused:
            raise StoreUnavailable(f"{self._where}: {refused}") from None
        except (OSError, TimeoutError, UnicodeError) as error:
            # UnicodeError: the host is no name that IDNA knows
            reason = type(error).__name__
            raise StoreUnavailable(f"{self._where} cannot be reached ({reason})") from None

    async def _open(self) -> Link:
        loop, at = asyncio.get_running_loop(), self.at
        if isinstance(at, UnixPath):
            return (await loop.create_unix_connection(self._new_link, at.path))[1]
        return (await loop.create_connection(self._new_link, *at, ssl=self._tls))[1]

    def _new_link(self) -> Link:
        return Link(self._lost, self._timeout)

    async def _greet(self, link: Link) -> Link:
        try:
            never = link.loop.time() + CONNECT_SECONDS
            for command in (*self._hello, PING):
                reply = await link.send(command, never)
                if isinstance(reply, ReplyError):
                    raise StoreUnavailable(f"Redis refused the connection: {reply.text}")
        except BaseException:
            link.abort()
            raise
        return link

    def _connected(self, link: Link) -> None:
        self._link, self._overdue, self.last_error = link, 0, ""

    def _lost(self, link: Link) -> None:
        if link is self._link:
            self._link = None
            self.last_error = f"{self._where}: the connection to Redis was lost"
            self._gone.set()

    def _set_aside(self, link: Link) -> None:
        """Connect anew. What Redis still answers here is heard for a while, as a reservation that
        is granted so late has to be given back."""
        link.set_aside()
        self._aside.append((link.loop.time() + ASIDE_SECONDS, link))
        if len(self._aside) > MOST_ASIDE:
            self._aside.pop(0)[1].abort()
        self._lost(link)
        self.last_error = f"{self._where}: Redis does not answer in time"

    def _close_aside(self, now: float) -> None:
        """Those that have answered everything, or that nobody listens to any longer."""
        for until, link in self._aside:
            if now >= until or not link.waiting:
                link.abort()
        self._aside = [(until, link) for until, link in self._aside if not link.closed]

    @property
    def _where(self) -> str:
        return self.at.path if isinstance(self.at, UnixPath) else str(self.at)

    def _sweep(self) -> None:
        """One coarse timer for all deadlines; they are in order, as the timeout is the same."""
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(self._timeout / 5, self._sweep)
        link, now = self._link, loop.time()
        self._close_aside(now)
        if link is None:
            return
        stuck = False
        for deadline, future, _ in link.waiting:
            if deadline > now:
                break
            stuck = True
            if not future.done():
                self.timeouts += 1
                self._overdue += 1
                future.set_exception(StoreUnavailable("Redis did not answer in time"))
                future.exception()
        if not stuck:
            self._overdue = 0
        elif now - link.waiting[0][0] > STALLED_SECONDS:
            self._set_aside(link)
            return
        if self._overdue >= BREAKER_TIMEOUTS and now >= self._probe_at:
            self._probe_at = now + PROBE_SECONDS
            link.tell(PING)


def _hello(address: RedisAddress) -> tuple[bytes, ...]:
    commands = []
    if address.password is not None:
        user = () if address.username is None else (address.username,)
        commands.append(encode(b"AUTH", *user, address.password))
    if address.database:
        commands.append(encode(b"SELECT", address.database))
    return tuple(commands)
