"""Commands of one tick: the first are written before the last is sent, in order."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from sidecar.stores.connection.link import EARLY, Link, encode

TIMEOUT_S = 30


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Link, socket.socket]]:
    """A link, and the socket of its other end."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(TIMEOUT_S)
        _, link = await loop.create_connection(
            lambda: Link(lambda _: None, 1.0), *server.getsockname()
        )
        other, _ = server.accept()
    other.settimeout(TIMEOUT_S)
    with other:
        yield link, other
        link.abort()


def commands(number: int, size: int = 10) -> list[bytes]:
    return [encode(b"ECHO", f"{n:0{size}}") for n in range(number)]


def send(link: Link, all_of_them: list[bytes]) -> list[asyncio.Future[object]]:
    never = link.loop.time() + TIMEOUT_S
    return [link.send(command, never) for command in all_of_them]


def received(other: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        got += other.recv(1 << 16)
    return got


async def test_enough_commands_are_written_before_the_end_of_the_tick(
    ends: tuple[Link, socket.socket],
) -> None:
    link, other = ends
    sent = commands(EARLY + 3)
    replies = send(link, sent)
    # The loop has not run since.
    assert received(other, 1) == b"".join(sent[:EARLY])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    rest = b"".join(sent[EARLY:])
    assert await asyncio.to_thread(received, other, len(rest)) == rest
    other.sendall(b"".join(b":%d\r\n" % n for n in range(len(sent))))
    async with asyncio.timeout(TIMEOUT_S):
        assert [await reply for reply in replies] == list(range(len(sent)))


async def test_few_commands_leave_in_one_write(ends: tuple[Link, socket.socket]) -> None:
    link, other = ends
    sent = commands(EARLY - 1)
    send(link, sent)
    other.setblocking(False)
    with pytest.raises(BlockingIOError):
        other.recv(1)
    other.settimeout(TIMEOUT_S)
    whole = b"".join(sent)
    assert await asyncio.to_thread(received, other, len(whole)) == whole


async def test_bytes_that_the_kernel_does_not_take_follow_in_order(
    ends: tuple[Link, socket.socket],
) -> None:
    link, other = ends
    sent = commands(4 * EARLY, size=200_000)
    send(link, sent)
    whole = b"".join(sent)
    async with asyncio.timeout(TIMEOUT_S):
        assert await asyncio.to_thread(received, other, len(whole)) == whole
