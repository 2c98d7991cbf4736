"""Sessions of correct clients. Each may raise `Unexpected`."""

import json
from contextlib import AsyncExitStack
from typing import Final

from loadtests.soak import api
from loadtests.soak.client import Ended
from loadtests.soak.virtual_user import (
    Unexpected,
    VirtualUser,
    is_complete_from_api,
    require_body,
    require_status,
)

REQUESTS: Final = 8  # on one connection
CROWD: Final = 50
SIZES: Final = (0, 1, 1_000, 20_000, 300_000)
CHUNK: Final = 7_000
STREAM: Final = b"".join(api.PIECE % number for number in range(api.PIECES))
EVENTS: Final = b"".join(api.EVENT % number for number in range(api.PIECES))
FAILURES: Final = ("/broken", "/reset", "/reset/late", "/garbage")


async def keep_alive(user: VirtualUser) -> None:
    """Send several requests on one connection."""
    async with user.connection() as connection:
        for number in range(REQUESTS):
            path = f"/items/{number}"
            answer = await user.request(connection, "GET", path)
            if is_complete_from_api(answer) and json.loads(answer.body) != {
                "method": "GET",
                "path": path,
            }:
                raise Unexpected(f"GET {path}: the answer to another request")
            if answer.closes:
                return


async def bodyless_and_failing(user: VirtualUser) -> None:
    """Get answers without a body, and failures of the API itself."""
    async with user.connection() as connection:
        for method, path, expected in (
            ("HEAD", "/items", 200), ("DELETE", "/empty", 204), ("GET", "/failing", 500),
        ):  # fmt: skip
            if (await user.request(connection, method, path, expected=expected)).closes:
                return


async def one_shot(user: VirtualUser) -> None:
    """Send one request on a connection of its own."""
    async with user.connection() as connection:
        answer = await user.request(connection, "GET", "/items", "Connection: close")
        if not answer.closes:
            raise Unexpected("GET /items: the answer has no Connection: close")


async def crowd(user: VirtualUser) -> None:
    """Open many connections at once."""
    async with AsyncExitStack() as open_together:
        for _ in range(CROWD):
            connection = await open_together.enter_async_context(user.connection())
            await user.request(connection, "GET", "/items")


async def pipelined(user: VirtualUser) -> None:
    """Send several requests before the first answer."""
    async with user.connection() as connection:
        paths = [f"/pipelined/{number}" for number in range(REQUESTS)]
        connection.send(b"".join(user.head("GET", path) for path in paths))
        for path in paths:
            answer = await user.receive(connection, "pipelined")
            require_status(answer, "pipelined", 200)
            if is_complete_from_api(answer) and json.loads(answer.body)["path"] != path:
                raise Unexpected("pipelined: the answers are not in order")
            if answer.closes:
                return


async def upload(user: VirtualUser) -> None:
    """Upload bodies of several sizes: with a length, in chunks, and after 100 (Continue)."""
    async with user.connection() as connection:
        body = user.random.randbytes(user.random.choice(SIZES))
        answer = await user.request(connection, "POST", "/echo", body=body)
        require_body(answer, "POST /echo", body)
        if answer.closes:
            return
        body = user.random.randbytes(user.random.choice(SIZES))
        pieces = [body[at : at + CHUNK] for at in range(0, len(body), CHUNK)]
        connection.send(user.head("POST", "/echo", "Transfer-Encoding: chunked"))
        for piece in (*pieces, b""):
            connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        answer = await user.receive(connection, "POST /echo in chunks")
        require_status(answer, "POST /echo in chunks", 200)
        require_body(answer, "POST /echo in chunks", body)
        if not answer.closes:
            body = user.random.randbytes(20_000)
            require_body(
                await user.upload_after_continue(connection, "/echo", body), "after 100", body
            )


async def early(user: VirtualUser) -> None:
    """Upload to a path that answers before it has read the body."""
    async with user.connection() as connection:
        await user.request(connection, "POST", "/early", body=bytes(20_000), expected=413)


async def download(user: VirtualUser) -> None:
    """Download 1 MiB."""
    async with user.connection() as connection:
        require_body(await user.request(connection, "GET", "/large"), "GET /large", api.LARGE)


async def streams(user: VirtualUser) -> None:
    """Read answers that come in pieces."""
    async with user.connection() as connection:
        answer = await user.request(connection, "GET", "/stream")
        require_body(answer, "GET /stream", STREAM)
        if not answer.closes:
            require_body(await user.request(connection, "GET", "/events"), "GET /events", EVENTS)


async def slow(user: VirtualUser) -> None:
    """Request a slow path."""
    async with user.connection() as connection:
        await user.request(connection, "GET", "/slow")


async def failures(user: VirtualUser) -> None:
    """Request paths that answer incompletely, or not at all."""
    for path in FAILURES:
        async with user.connection() as connection:
            connection.send(user.head("GET", path))
            try:
                answer = await user.receive(connection, f"GET {path}")
            except Ended:
                continue
            if is_complete_from_api(answer):
                raise Unexpected(f"GET {path}: a whole answer where the API gave none")


async def critical(user: VirtualUser) -> None:
    """Send critical requests, which are never refused for a quota."""
    async with user.connection() as connection:
        for method, path in (("GET", "/status"), ("POST", "/login")):
            answer = await user.request(connection, method, path)
            if answer.status == 429:
                raise Unexpected(f"critical {method} {path}: refused")
            if answer.closes:
                return


async def tunnel(user: VirtualUser) -> None:
    """Use a tunnel, which a WebSocket is to the sidecar."""
    path = user.random.choice(("/tunnel", "/tunnel/short"))
    async with user.connection() as connection:
        fields = ("Connection: Upgrade", "Upgrade: websocket")
        answer = await user.request(connection, "GET", path, *fields, expected=101)
        if answer.status != 101:
            return
        user.observations.counts["tunnels"] += 1
        for number in range(api.MESSAGES):
            message = b"message %d" % number * user.random.randrange(1, 2_000)
            connection.send(message)
            try:
                back = await connection.exactly(len(message))
            except Ended:
                return  # the API was stopped
            if back != message:
                raise Unexpected(f"{path}: other bytes than were sent")
