"""What clients do that leave, dawdle or send no HTTP. Each session may raise `Unexpected`."""

import asyncio
from typing import Final

from loadtests.soak import api
from loadtests.soak.client import Ended
from loadtests.soak.virtual_user import Unexpected, VirtualUser, require_body, require_status

HASTE_SECONDS: Final = 0.003  # about what a reservation takes under load
SMALL_BUFFER: Final = 8_192
REST_SECONDS: Final = 0.01  # of a slow reader, after each piece
UPLOAD: Final = 100_000
MALFORMED: Final = (
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 40_000 + b"\r\n\r\n",
    b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
)


async def leaves_early(user: VirtualUser) -> None:
    """Gone in the time that a reservation takes."""
    await user.calm.wait()
    async with user.connection() as connection:
        connection.send(user.head("GET", "/slow"))
        await asyncio.sleep(user.dice.uniform(0, HASTE_SECONDS))
        connection.reset()
        user.observations.left(user.client.account)


async def leaves_in_upload(user: VirtualUser) -> None:
    """Gone before its body was sent."""
    await user.calm.wait()
    async with user.connection() as connection:
        connection.send(user.head("POST", "/echo", f"Content-Length: {UPLOAD}"))
        connection.send(bytes(UPLOAD // user.dice.randrange(2, 20)))
        await asyncio.sleep(user.dice.uniform(0, 0.02))
        if user.dice.random() < 0.5:
            connection.reset()
        user.observations.left(user.client.account)


async def leaves_in_answer(user: VirtualUser) -> None:
    """Gone before it has all of its answer."""
    path = user.dice.choice(("/large", "/stream"))
    async with user.connection(receive_buffer=SMALL_BUFFER) as connection:
        connection.send(user.head("GET", path))
        try:
            await connection.head()
            await connection.exactly(10)
        except Ended:
            return
        if user.dice.random() < 0.5:
            connection.reset()
        user.observations.counts["left in an answer"] += 1


async def reads_slowly(user: VirtualUser) -> None:
    """A megabyte, sip by sip."""
    async with user.connection(receive_buffer=SMALL_BUFFER) as connection:
        answer = await user.request(connection, "GET", "/large", rest=REST_SECONDS)
        require_body(answer, "GET /large, slowly", api.LARGE)


async def leaves_a_tunnel(user: VirtualUser) -> None:
    """Gone without a word."""
    async with user.connection() as connection:
        fields = ("Connection: Upgrade", "Upgrade: websocket")
        await user.request(connection, "GET", "/tunnel", *fields, expected=101)
        connection.send(b"and")
        connection.reset()


async def half_closes(user: VirtualUser) -> None:
    """Says that it sends no more, and still wants its answer."""
    async with user.connection() as connection:
        connection.send(user.head("GET", "/slow"))
        connection.transport.write_eof()
        require_status(await user.receive(connection, "half-closed"), "half-closed", 200)


async def sends_no_http(user: VirtualUser) -> None:
    """Each connection is refused with one answer, then closed."""
    request = user.dice.choice(MALFORMED)
    async with user.connection() as connection:
        connection.send(request)
        what = f"malformed {request[:20]!r}"
        answer = await user.receive(connection, what)
        if not (answer.ours and 400 <= answer.status < 600 and answer.status != 500):
            raise Unexpected(f"{what}: answered {answer.status}")
        try:
            await connection.exactly(1)
        except Ended:
            return
        raise Unexpected(f"{what}: more than one answer")


async def breaks_a_chunk(user: VirtualUser) -> None:
    """A body that turns out malformed when the API has begun to get it."""
    async with user.connection() as connection:
        connection.send(user.head("POST", "/echo", "Transfer-Encoding: chunked"))
        connection.send(b"5\r\nhello\r\n")
        await asyncio.sleep(user.dice.uniform(0, 0.02))
        connection.send(b"no number\r\n\r\n")
        answer = await user.receive(connection, "a broken chunk")
        if not answer.ours or answer.status not in (400, 429, 502, 503, 504):
            raise Unexpected(f"a broken chunk: answered {answer.status}")


async def has_no_key(user: VirtualUser) -> None:
    """No credential, or one that nobody knows."""
    async with user.connection() as connection:
        for field in ("Accept: */*", "X-Api-Key: nobody's"):
            connection.send(f"GET /items HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n".encode())
            answer = await user.receive(connection, "without a key")
            if answer.status not in (401, 503):
                raise Unexpected(f"without a key: answered {answer.status}")


async def says_nothing(user: VirtualUser) -> None:
    """Opens a connection, sends part of a head at most, and goes."""
    async with user.connection() as connection:
        connection.send(user.head("GET", "/items")[: user.dice.randrange(0, 30)])
        await asyncio.sleep(user.dice.uniform(0, 0.3))
