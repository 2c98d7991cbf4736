"""A pipelined connection to one Redis server, for all commands per request.

The commands of a loop tick are sent in few writes. Replies come in order, and a queue matches them
to their futures. A command that times out stays in the queue, so a late reply never reaches
another command.
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
from sidecar.stores.connection.refusals import (
    EXPECTS_TLS,
    WRONG_CREDENTIALS,
    hint_of,
    tls_problem,
    what_failed,
)
from sidecar.stores.connection.tls import tls_context

__all__ = ["PING", "Late", "ReplyError", "Wire", "bulk", "encode"]

log = logger("stores")

MAX_IN_FLIGHT: Final = 20_000
BREAKER_TIMEOUTS: Final = 3  # in a row; then commands fail at once until a PING is answered
PROBE_SECONDS: Final = 0.1
STALLED_SECONDS: Final = 1.0  # after which a connection without replies is set aside
ASIDE_SECONDS: Final = 60.0  # for which late replies are read from it
MOST_ASIDE: Final = 4
CONNECT_SECONDS: Final = 2.0
BACKOFF_SECONDS: Final = (0.05, 0.1, 0.2, 0.5, 1.0)


class Wire:
    """Implements `connect.Connection` for one server: keeps one link, and fails fast without it."""

    def __init__(
        self,
        url: str | RedisAddress,
        *,
        timeout_s: float = 0.05,
        tls: ssl.SSLContext | None = None,
        quiet: bool = False,
    ) -> None:
        """`tls` overrides the URL's TLS files; `quiet`: do not log outages.

        Raises SettingsError for invalid TLS files, ValueError for an invalid URL.
        """
        address = redis_address(url) if isinstance(url, str) else url
        self.at = address.at
        self._tls = (tls or tls_context(address)) if address.tls else None
        self._hello = _hello(address)
        self._timeout = timeout_s
        self._quiet = quiet
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._link_lost = asyncio.Event()
        self._aside: list[tuple[float, Link]] = []  # until when each is read
        self._overdue = 0  # commands in a row that timed out
        self._probe_at = 0.0
        self.tried = asyncio.Event()  # the first attempt to connect is over
        self.last_error = ""
        self.timeouts = 0
        self.reconnects = 0

    @property
    def up(self) -> bool:
        """Whether there is a connection that answers in time."""
        return self._link is not None and self._overdue < BREAKER_TIMEOUTS

    @property
    def reachable(self) -> bool:
        """The same as `up`, as there is one server."""
        return self.up

    @property
    def why_not_up(self) -> str:
        """The reason why it is not up, with the address."""
        return self.last_error or f"{self._where} does not answer in time"

    @property
    def shards(self) -> tuple[int, ...]:
        """One server serves all slots."""
        return (0,)

    async def start(self) -> None:
        """Connect. Returns after the first attempt, and retries in the background."""
        self.begin()
        await self.tried.wait()

    def begin(self) -> None:
        """Start to connect, without waiting."""
        self._task = asyncio.get_running_loop().create_task(self._keep_connected())
        self._sweep()

    async def stop(self) -> None:
        """Close all connections. Idempotent."""
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
        """Send an encoded command.

        The future has the reply (a ReplyError for an error), or raises StoreUnavailable: no
        connection, too many commands in flight, or no reply in time. `late(reply, link)` gets a
        reply that comes after that, and its connection.
        """
        link = self._link
        if link is None or self._overdue >= BREAKER_TIMEOUTS or len(link.waiting) >= MAX_IN_FLIGHT:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            future.set_exception(StoreUnavailable(self.why_not_up))
            return future
        return link.send(command, link.loop.time() + self._timeout, late)

    def tell(self, command: bytes, slot: int = 0) -> None:  # noqa: ARG002 - for a cluster
        """Send an encoded command and ignore the reply, also while `execute` fails fast.

        Without a connection, nothing is sent.
        """
        link = self._link
        if link is not None:
            link.tell(command)

    @property
    def awaits_replies(self) -> bool:
        """Whether commands are unanswered, late ones included."""
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
            self._link_lost.clear()
            self._connected(link)
            self.tried.set()
            await self._link_lost.wait()
            self.reconnects += 1

    async def _connect(self) -> Link:
        """A link that answered a PING. Raises StoreUnavailable."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return await self._greet(await self._open())
        except StoreUnavailable as refusal:
            raise StoreUnavailable(f"{self._where}: {refusal}") from None
        except ssl.SSLError as error:
            raise StoreUnavailable(f"{self._where}: {tls_problem(error)}") from None
        except (OSError, TimeoutError, UnicodeError) as error:
            hint = hint_of(error, tls=self._tls is not None)
            raise StoreUnavailable(f"{self._where} {what_failed(error)}{hint}") from None

    async def _open(self) -> Link:
        loop, at = asyncio.get_running_loop(), self.at
        if isinstance(at, UnixPath):
            return (await loop.create_unix_connection(self._new_link, at.path))[1]
        return (await loop.create_connection(self._new_link, *at, ssl=self._tls))[1]

    def _new_link(self) -> Link:
        return Link(self._lost, self._timeout)

    async def _greet(self, link: Link) -> Link:
        try:
            deadline = link.loop.time() + CONNECT_SECONDS
            for command in (*self._hello, PING):
                reply = await self._first(link.send(command, deadline))
                if isinstance(reply, ReplyError):
                    hint = WRONG_CREDENTIALS if reply.text.startswith("WRONGPASS") else ""
                    raise StoreUnavailable(f"Redis refused the connection: {reply.text}{hint}")
        except BaseException:
            link.abort()
            raise
        return link

    async def _first(self, reply: asyncio.Future[Any]) -> Any:
        """A reply to the greeting. Raises StoreUnavailable if the server ends the connection."""
        try:
            return await reply
        except StoreUnavailable as error:
            plain = self._tls is None and not isinstance(self.at, UnixPath)
            raise StoreUnavailable(f"{error}{EXPECTS_TLS if plain else ''}") from None

    def _connected(self, link: Link) -> None:
        self._link, self._overdue, self.last_error = link, 0, ""

    def _lost(self, link: Link) -> None:
        if link is self._link:
            self._link = None
            self.last_error = f"{self._where}: the connection to Redis was lost"
            self._link_lost.set()

    def _set_aside(self, link: Link) -> None:
        """Replace the connection, but read late replies from it for `ASIDE_SECONDS`.

        A reservation that was granted too late has to be undone.
        """
        link.set_aside()
        self._aside.append((link.loop.time() + ASIDE_SECONDS, link))
        if len(self._aside) > MOST_ASIDE:
            self._aside.pop(0)[1].abort()
        self._lost(link)
        self.last_error = f"{self._where} does not answer in time"

    def _close_aside(self, now: float) -> None:
        """Close connections that have answered all commands, or whose time is over."""
        for until, link in self._aside:
            if now >= until or not link.waiting:
                link.abort()
        self._aside = [(until, link) for until, link in self._aside if not link.closed]

    @property
    def _where(self) -> str:
        return self.at.path if isinstance(self.at, UnixPath) else str(self.at)

    def _sweep(self) -> None:
        """Check all deadlines with one timer. They are in order, as all timeouts are equal."""
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
