"""Sessions of clients that disconnect, are slow or send invalid HTTP.

Each may raise `Unexpected`.
"""

import asyncio
from typing import Final

from loadtests.soak import api
from loadtests.soak.client import Ended
from loadtests.soak.virtual_user import Unexpected, VirtualUser, require_body, require_status

HASTE_SECONDS: Final = 0.003  # about the duration of a reservation under load
SMALL_BUFFER: Final = 8_192
REST_SECONDS: Final = 0.01  # pause of a slow reader after each piece
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


async def disconnects_early(user: VirtualUser) -> None:
    """Disconnect during the reservation."""
    await user.calm.wait()
    async with user.connection() as connection:
        connection.send(user.head("GET", "/slow"))
        await asyncio.sleep(user.random.uniform(0, HASTE_SECONDS))
        connection.reset()
        user.observations.record_disconnect(user.client.account)


async def disconnects_in_upload(user: VirtualUser) -> None:
    """Disconnect during the request's body."""
    await user.calm.wait()
    async with user.connection() as connection:
        connection.send(user.head("POST", "/echo", f"Content-Length: {UPLOAD}"))
        connection.send(bytes(UPLOAD // user.random.randrange(2, 20)))
        await asyncio.sleep(user.random.uniform(0, 0.02))
        if user.random.random() < 0.5:
            connection.reset()
        user.observations.record_disconnect(user.client.account)


async def disconnects_in_answer(user: VirtualUser) -> None:
    """Disconnect during the answer."""
    path = user.random.choice(("/large", "/stream"))
    async with user.connection(receive_buffer=SMALL_BUFFER) as connection:
        connection.send(user.head("GET", path))
        try:
            await connection.head()
            await connection.exactly(10)
        except Ended:
            return
        if user.random.random() < 0.5:
            connection.reset()
        user.observations.counts["disconnected in an answer"] += 1


async def reads_slowly(user: VirtualUser) -> None:
    """Read 1 MiB slowly."""
    async with user.connection(receive_buffer=SMALL_BUFFER) as connection:
        answer = await user.request(connection, "GET", "/large", rest=REST_SECONDS)
        require_body(answer, "GET /large, slowly", api.LARGE)


async def disconnects_in_tunnel(user: VirtualUser) -> None:
    """Reset a tunnel."""
    async with user.connection() as connection:
        fields = ("Connection: Upgrade", "Upgrade: websocket")
        await user.request(connection, "GET", "/tunnel", *fields, expected=101)
        connection.send(b"and")
        connection.reset()


async def half_closes(user: VirtualUser) -> None:
    """Close the sending side, and still read the answer."""
    async with user.connection() as connection:
        connection.send(user.head("GET", "/slow"))
        connection.transport.write_eof()
        require_status(await user.receive(connection, "half-closed"), "half-closed", 200)


async def sends_invalid_http(user: VirtualUser) -> None:
    """Send a malformed request, which must get one answer before the connection closes."""
    request = user.random.choice(MALFORMED)
    async with user.connection() as connection:
        connection.send(request)
        what = f"malformed {request[:20]!r}"
        answer = await user.receive(connection, what)
        if not (answer.from_sidecar and 400 <= answer.status < 600 and answer.status != 500):
            raise Unexpected(f"{what}: answered {answer.status}")
        try:
            await connection.exactly(1)
        except Ended:
            return
        raise Unexpected(f"{what}: more than one answer")


async def sends_invalid_chunk(user: VirtualUser) -> None:
    """Send an invalid chunk once the API has begun to read the body."""
    async with user.connection() as connection:
        connection.send(user.head("POST", "/echo", "Transfer-Encoding: chunked"))
        connection.send(b"5\r\nhello\r\n")
        await asyncio.sleep(user.random.uniform(0, 0.02))
        connection.send(b"no number\r\n\r\n")
        answer = await user.receive(connection, "a broken chunk")
        if not answer.from_sidecar or answer.status not in (400, 429, 502, 503, 504):
            raise Unexpected(f"a broken chunk: answered {answer.status}")


async def has_no_key(user: VirtualUser) -> None:
    """Send requests without an API key and with an unknown one."""
    async with user.connection() as connection:
        for field in ("Accept: */*", "X-Api-Key: unknown"):
            connection.send(f"GET /items HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n".encode())
            answer = await user.receive(connection, "without a key")
            if answer.status not in (401, 503):
                raise Unexpected(f"without a key: answered {answer.status}")


async def sends_partial_head(user: VirtualUser) -> None:
    """Open a connection, send a part of a head at most, and disconnect."""
    async with user.connection() as connection:
        connection.send(user.head("GET", "/items")[: user.random.randrange(0, 30)])
        await asyncio.sleep(user.random.uniform(0, 0.3))
