"""One pipelined connection to Redis for everything that happens per request.

All commands of a loop tick leave in one write; replies come back in order and meet their
futures in a queue. A command that times out keeps its place in that queue, so a late reply is
thrown away and never handed to somebody else.
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

import hiredis

from sidecar.errors import StoreUnavailable
from sidecar.logs import logger

log = logger("stores")

MAX_IN_FLIGHT: Final = 20_000
BREAKER_TIMEOUTS: Final = 3  # in a row, then calls fail at once until a PING is answered
PROBE_SECONDS: Final = 0.1
STALLED_SECONDS: Final = 1.0  # a reply overdue for this long: the connection is given up
CONNECT_SECONDS: Final = 2.0
BACKOFF_SECONDS: Final = (0.05, 0.1, 0.2, 0.5, 1.0)


class ReplyError(Exception):
    """An error that Redis answered. Handed over as a reply: the caller knows what it means."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(text)


def encode(*parts: bytes | str | int) -> bytes:
    """A command as RESP bytes."""
    out = [b"*%d\r\n" % len(parts)]
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        out.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(out)


Late = Callable[[Any, bool], None]
PING: Final = encode(b"PING")


class _Link(asyncio.Protocol):
    """One TCP connection's life. Replies are matched to the commands by order alone."""

    def __init__(self, lost: Callable[["_Link"], None]) -> None:
        self.transport: asyncio.Transport | None = None
        self.waiting: deque[tuple[float, asyncio.Future[Any], Late | None]] = deque()
        self._lost = lost
        self._reader = hiredis.Reader(replyError=ReplyError, notEnoughData=_MORE)
        self._out: list[bytes] = []
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self.waiting
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _MORE:
                _, future, late = waiting.popleft()
                if not future.done():
                    future.set_result(reply)
                elif late is not None:
                    late(reply, future.cancelled())
        except (hiredis.ProtocolError, IndexError):
            log.error("redis sent what is not an answer; connecting anew")
            self.abort()

    def connection_lost(self, _exc: Exception | None) -> None:
        while self.waiting:
            future = self.waiting.popleft()[1]
            if not future.done():
                future.set_exception(StoreUnavailable("the connection to Redis was lost"))
                future.exception()  # somebody may have stopped listening
        self._lost(self)

    def send(
        self, command: bytes, deadline: float, late: Late | None = None
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self.loop.create_future()
        self.waiting.append((deadline, future, late))
        if not self._out:
            self.loop.call_soon(self._flush)
        self._out.append(command)
        return future

    def _flush(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(b"".join(self._out))
        self._out.clear()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


_MORE: Final = object()


class Wire:
    """Keeps one link alive and fails fast while there is none."""

    def __init__(
        self, url: str, *, timeout_s: float = 0.05, tls: ssl.SSLContext | None = None
    ) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or 6379
        self._path = unquote(parts.path) if parts.scheme == "unix" else None
        self._tls = (tls or ssl.create_default_context()) if parts.scheme == "rediss" else None
        self._hello = _hello(parts.username, parts.password, parts.path, self._path, parts.query)
        self._timeout = timeout_s
        self._link: _Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._gone = asyncio.Event()
        self._overdue = 0  # commands in a row that timed out
        self._probe_at = 0.0
        self.last_error = ""
        self.timeouts = 0
        self.reconnects = 0

    @property
    def up(self) -> bool:
        """Whether there is a connection and it answers."""
        return self._link is not None and self._overdue < BREAKER_TIMEOUTS

    async def start(self) -> None:
        """Connect, or go on trying in the background: returns after the first attempt."""
        first = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._keep_connected(first))
        self._sweep()
        await first.wait()

    async def stop(self) -> None:
        """Let go of the connection. Idempotent."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        link, self._link = self._link, None
        if link is not None:
            link.abort()

    def execute(self, command: bytes, late: Late | None = None) -> asyncio.Future[Any]:
        """Send encoded bytes. The future holds the reply (a ReplyError for an error answer), or
        raises StoreUnavailable: no connection, too much in flight, or no reply in time.

        `late(reply, cancelled)` gets a reply that nobody waited for any more.
        """
        link = self._link
        if link is None or self._overdue >= BREAKER_TIMEOUTS or len(link.waiting) >= MAX_IN_FLIGHT:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            why = self.last_error or "Redis does not answer in time"
            future.set_exception(StoreUnavailable(why))
            return future
        return link.send(command, link.loop.time() + self._timeout, late)

    async def _keep_connected(self, first: asyncio.Event) -> None:
        failures = 0
        while True:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    link = await self._connect()
            except (OSError, TimeoutError, UnicodeError, StoreUnavailable) as error:
                # UnicodeError: the host is no name that IDNA knows
                self.last_error = self._explain(error)
                if failures == 0:
                    log.warning("redis is not reachable", error=self.last_error)
                wait = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)]
                failures += 1
                first.set()
                await asyncio.sleep(wait)
                continue
            if failures:
                log.info("redis is reachable again")
            failures = 0
            self._gone.clear()
            self._link, self._overdue, self.last_error = link, 0, ""
            first.set()
            await self._gone.wait()
            self.reconnects += 1

    async def _connect(self) -> _Link:
        loop = asyncio.get_running_loop()
        if self._path is not None:
            _, link = await loop.create_unix_connection(lambda: _Link(self._lost), self._path)
        else:
            _, link = await loop.create_connection(
                lambda: _Link(self._lost), self._host, self._port, ssl=self._tls
            )
        try:
            never = loop.time() + CONNECT_SECONDS
            for command in (*self._hello, PING):
                reply = await link.send(command, never)
                if isinstance(reply, ReplyError):
                    raise StoreUnavailable(f"Redis refused the connection: {reply.text}")
        except BaseException:
            link.abort()
            raise
        return link

    def _lost(self, link: _Link) -> None:
        if link is self._link:
            self._link = None
            self.last_error = "the connection to Redis was lost"
            self._gone.set()

    def _explain(self, error: BaseException) -> str:
        where = self._path or f"{self._host}:{self._port}"
        if isinstance(error, StoreUnavailable):
            return f"{where}: {error}"
        return f"{where} cannot be reached ({type(error).__name__})"

    def _sweep(self) -> None:
        """One coarse timer for all deadlines; they are in order, as the timeout is the same."""
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(self._timeout / 5, self._sweep)
        link = self._link
        if link is None:
            return
        now = loop.time()
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
            link.abort()
        if self._overdue >= BREAKER_TIMEOUTS and now >= self._probe_at:
            self._probe_at = now + PROBE_SECONDS
            link.send(PING, now + self._timeout).add_done_callback(_ignore)


def _ignore(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


def _hello(
    user: str | None, password: str | None, path: str, unix_path: str | None, query: str
) -> tuple[bytes, ...]:
    commands = []
    if password:
        words = (unquote(user), unquote(password)) if user else (unquote(password),)
        commands.append(encode(b"AUTH", *words))
    database = path.strip("/") if unix_path is None else query.removeprefix("db=")
    if database and database != "0":
        commands.append(encode(b"SELECT", database))
    return tuple(commands)
