"""The attacks: each lasts until its deadline and has a bounded number of connections.

An attack runs in a process of its own, and all its connections come from one address. `python -m
loadtests.hostile.attacks NAME PORT SECONDS` prints how many connections and requests it sent.
"""

import asyncio
import os
import secrets
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import Final

import uvloop

from loadtests.hostile.accounts import ATTACKER_ADDRESS, ATTACKER_KEY, USED_UP_KEY
from loadtests.processes import allow_files

LOWEST_PRIORITY: Final = 19  # of an attacker's process, so that the measured clients come first
REPLY_SECONDS: Final = 5.0
DRAIN_SECONDS: Final = 1.0
OPEN_AT_ONCE: Final = 50  # connections that are being opened
BUFFER_BYTES: Final = 4_096  # of each socket and stream that an attacker hardly reads
UPLOAD_HEAD_BYTES: Final = 3_000
SPARE_FILES: Final = 100
_KEY: Final = b"X-Api-Key: %b\r\n" % ATTACKER_KEY.encode()
_USED_UP: Final = b"X-Api-Key: %b\r\n" % USED_UP_KEY.encode()
_UPGRADE: Final = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: eA==\r\nSec-WebSocket-Version: 13\r\n"
)
_CLOSE: Final = b"Connection: close\r\n"  # of a connection's last request, which ends the step
_NUMBERS: Final = count()


class Attacker:
    """The connections of one attack, and how many it has opened and sent."""

    def __init__(self, port: int, seconds: float) -> None:
        self.sent = 0
        self._port = port
        self._deadline = time.monotonic() + seconds
        self._opening = asyncio.Semaphore(OPEN_AT_ONCE)

    @property
    def is_over(self) -> bool:
        """Whether the attack must end."""
        return time.monotonic() >= self._deadline

    @asynccontextmanager
    async def connection(
        self, *, receive_buffer: int = 0
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Open a connection for the duration of the block. Raises OSError."""
        async with self._opening:
            reader, writer = await self._open(receive_buffer)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def _open(self, receive_buffer: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sock = socket.socket()
        try:
            sock.setblocking(False)
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.bind((ATTACKER_ADDRESS, 0))
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._port))
            return await asyncio.open_connection(sock=sock, limit=BUFFER_BYTES)
        except BaseException:
            sock.close()
            raise

    async def together(
        self, number: int, pause: float, step: Callable[[], Awaitable[None]]
    ) -> None:
        """Repeat a step in `number` tasks until the deadline, with a pause in seconds."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(number):
                tasks.create_task(self._repeat(pause, step))

    async def _repeat(self, pause: float, step: Callable[[], Awaitable[None]]) -> None:
        while not self.is_over:
            # The sidecar may refuse, close and reset: that ends a step, not the attack.
            with suppress(OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
                await step()
            await asyncio.sleep(pause)

    async def rest(self, seconds: float) -> None:
        """Wait, at most until the deadline."""
        await asyncio.sleep(max(0.0, min(seconds, self._deadline - time.monotonic())))


@dataclass(frozen=True, slots=True)
class Attack:
    """One sort of attack. `connections`: how many it holds at once."""

    run: Callable[[Attacker, int], Awaitable[None]]
    connections: int


async def send_and_read(attacker: Attacker, data: bytes) -> bytes:
    """Send bytes on a new connection. Returns the first bytes of the answer. Raises OSError."""
    async with attacker.connection() as (reader, writer):
        writer.write(data)
        attacker.sent += 1
        async with asyncio.timeout(REPLY_SECONDS):
            await writer.drain()
            return await reader.read(BUFFER_BYTES)


async def send_and_drain(attacker: Attacker, data: bytes) -> None:
    """Send bytes on a new connection, and read answers for a second. Raises OSError."""
    async with attacker.connection() as (reader, writer):
        writer.write(data)
        attacker.sent += 1
        async with asyncio.timeout(DRAIN_SECONDS):
            while await reader.read(BUFFER_BYTES):
                pass


async def hold(
    attacker: Attacker, number: int, head: bytes, *, piece: bytes = b"", pause: float = 0.4
) -> None:
    """Hold connections that send a head, then a small piece after each pause, and read nothing."""

    async def step() -> None:
        async with attacker.connection(receive_buffer=BUFFER_BYTES) as (_, writer):
            writer.write(head)
            attacker.sent += 1
            while not (attacker.is_over or writer.is_closing()):
                await attacker.rest(pause)
                writer.write(piece)

    await attacker.together(number, pause, step)


async def repeat(
    attacker: Attacker, number: int, data: Callable[[], bytes], *, pause: float = 0.02
) -> None:
    """Send data on new connections, again and again."""

    async def step() -> None:
        await send_and_drain(attacker, data())

    await attacker.together(number, pause, step)


async def tiny_chunks(attacker: Attacker, number: int) -> None:
    """Bodies of 20,000 one-byte chunks, without an API key."""
    head = b"POST /items HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    await repeat(attacker, number, lambda: head + b"1\r\na\r\n" * 20_000)


async def header_lines(attacker: Attacker, number: int) -> None:
    """Heads of 4,600 lines that stay below the limit in bytes."""
    head = b"GET /items HTTP/1.1\r\nHost: a\r\n" + _CLOSE + b"te:a\r\n" * 4_600 + b"\r\n"
    await repeat(attacker, number, lambda: head)


async def slow_heads(attacker: Attacker, number: int) -> None:
    """Heads of about 38 KB that never end, without an API key."""
    fields = b"".join(b"X-%d: %b\r\n" % (one, b"a" * 320) for one in range(94))
    head = b"GET /%b HTTP/1.1\r\nHost: a\r\n" % (b"a" * 7_900) + fields
    await hold(attacker, number, head)


async def slow_uploads(attacker: Attacker, number: int) -> None:
    """Uploads just above the least rate, to a standard route."""
    await hold(attacker, number, _upload(b"/items"), piece=b"a" * 150)


async def slow_critical_uploads(attacker: Attacker, number: int) -> None:
    """Uploads just above the least rate, to a critical route."""
    await hold(attacker, number, _upload(b"/login"), piece=b"a" * 150)


def _upload(path: bytes) -> bytes:
    head = b"POST %b HTTP/1.1\r\nHost: a\r\n%bContent-Length: 1000000\r\n\r\n" % (path, _KEY)
    return head + b"a" * UPLOAD_HEAD_BYTES


async def idle_websockets(attacker: Attacker, number: int) -> None:
    """WebSockets that send nothing."""
    await hold(attacker, number, b"GET /tunnel HTTP/1.1\r\nHost: a\r\n" + _KEY + _UPGRADE + b"\r\n")


async def slow_readers(attacker: Attacker, number: int) -> None:
    """Requests for 1 MiB whose answers are never read."""
    await hold(attacker, number, b"GET /large HTTP/1.1\r\nHost: a\r\n" + _KEY + b"\r\n")


async def job_loops(attacker: Attacker, number: int) -> None:
    """Deferred jobs with large heads, deleted as soon as they are queued."""
    large = b"Content-Type: a/b;x=%b\r\n" % (b"y" * 20_000)
    post = b"POST /exports?%b HTTP/1.1\r\nHost: a\r\n" % (b"q" * 7_000)
    post += _USED_UP + large + b"Content-Length: 1000\r\n\r\n" + b"b" * 1_000

    async def step() -> None:
        answer = await send_and_read(attacker, post)
        location = answer.partition(b"ocation: ")[2].partition(b"\r\n")[0]
        if location:
            await send_and_read(
                attacker, b"DELETE %b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (location, _USED_UP)
            )

    await attacker.together(number, 0.0, step)


async def huge_usage(attacker: Attacker, number: int) -> None:
    """Requests whose answers report absurd usage."""
    body = b'{"max_tokens": 5}'
    head = b"POST /chat HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n" + _KEY + _CLOSE
    await repeat(attacker, number, lambda: head + b"Content-Length: 17\r\n\r\n" + body)


async def random_keys(attacker: Attacker, number: int) -> None:
    """Requests with a new random API key each."""

    def data() -> bytes:
        keys = [b"X-Api-Key: %b\r\n" % secrets.token_hex(16).encode() for _ in range(50)]
        keys[-1] += _CLOSE
        return b"".join(b"GET /items HTTP/1.1\r\nHost: a\r\n%b\r\n" % key for key in keys)

    await repeat(attacker, number, data)


async def connection_flood(attacker: Attacker, number: int) -> None:
    """Connections that are opened and reset without a request."""

    async def step() -> None:
        async with attacker.connection() as (_, writer):
            attacker.sent += 1
            writer.write(b"GET /")

    await attacker.together(number, 0.01, step)


async def huge_targets(attacker: Attacker, number: int) -> None:
    """Targets of 7,900 bytes, each a new one, and of 64 KiB."""

    def data() -> bytes:
        unique = next(_NUMBERS)
        size = 7_900 if unique % 2 else 65_536
        target = b"/%d/%b" % (unique, b"a/" * (size // 2))
        return b"GET %b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (target[:size], _KEY + _CLOSE)

    await repeat(attacker, number, data)


async def pipelining(attacker: Attacker, number: int) -> None:
    """Connections that send 500 requests at once."""
    head = b"GET /items HTTP/1.1\r\nHost: a\r\n" + _KEY
    data = (head + b"\r\n") * 499 + head + _CLOSE + b"\r\n"
    await repeat(attacker, number, lambda: data)


ATTACKS: Final = {
    "tiny-chunks": Attack(tiny_chunks, 4),
    "header-lines": Attack(header_lines, 4),
    "slow-heads": Attack(slow_heads, 4_000),
    "slow-uploads": Attack(slow_uploads, 300),
    "slow-critical-uploads": Attack(slow_critical_uploads, 300),
    "idle-websockets": Attack(idle_websockets, 300),
    "slow-readers": Attack(slow_readers, 300),
    "job-loops": Attack(job_loops, 8),
    "huge-usage": Attack(huge_usage, 8),
    "random-keys": Attack(random_keys, 8),
    "connection-flood": Attack(connection_flood, 16),
    "huge-targets": Attack(huge_targets, 8),
    "pipelining": Attack(pipelining, 4),
}


async def main() -> None:
    """Run the attack of the command line, and print how much it sent."""
    name, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    attack = ATTACKS[name]
    allow_files(attack.connections + SPARE_FILES)
    os.nice(LOWEST_PRIORITY)
    attacker = Attacker(port, seconds)
    await attack.run(attacker, attack.connections)
    print(attacker.sent)


if __name__ == "__main__":
    uvloop.run(main())
