"""What well-behaved clients do. Each visit may raise `Unexpected`."""

import json
from contextlib import AsyncExitStack
from typing import Final

from loadtests.soak import api
from loadtests.soak.client import Ended
from loadtests.soak.visitor import Unexpected, Visitor, answered, require_body, require_status

CALLS: Final = 8  # on one connection
CROWD: Final = 50
SIZES: Final = (0, 1, 1_000, 20_000, 300_000)
CHUNK: Final = 7_000
STREAM: Final = b"".join(api.PIECE % number for number in range(api.PIECES))
EVENTS: Final = b"".join(api.EVENT % number for number in range(api.PIECES))
FAILURES: Final = ("/broken", "/reset", "/reset/late", "/garbage")


async def keep_alive(here: Visitor) -> None:
    """Some calls, one after the other."""
    async with here.connection() as connection:
        for number in range(CALLS):
            path = f"/items/{number}"
            answer = await here.call(connection, "GET", path)
            if answered(answer) and json.loads(answer.body) != {"method": "GET", "path": path}:
                raise Unexpected(f"GET {path}: the answer to another call")
            if answer.closes:
                return


async def others(here: Visitor) -> None:
    """Answers without a body, and failures that are the API's own."""
    async with here.connection() as connection:
        for method, path, expected in (
            ("HEAD", "/items", 200), ("DELETE", "/empty", 204), ("GET", "/failing", 500),
        ):  # fmt: skip
            if (await here.call(connection, method, path, expected=expected)).closes:
                return


async def one_shot(here: Visitor) -> None:
    """A connection for one call."""
    async with here.connection() as connection:
        answer = await here.call(connection, "GET", "/items", "Connection: close")
        if not answer.closes:
            raise Unexpected("GET /items: the answer does not say that the connection closes")


async def crowd(here: Visitor) -> None:
    """Many connections that are open together, and then are not."""
    async with AsyncExitStack() as open_together:
        for _ in range(CROWD):
            connection = await open_together.enter_async_context(here.connection())
            await here.call(connection, "GET", "/items")


async def pipelined(here: Visitor) -> None:
    """Several calls before the first answer."""
    async with here.connection() as connection:
        paths = [f"/pipelined/{number}" for number in range(CALLS)]
        connection.send(b"".join(here.head("GET", path) for path in paths))
        for path in paths:
            answer = await here.hear(connection, "pipelined")
            require_status(answer, "pipelined", 200)
            if answered(answer) and json.loads(answer.body)["path"] != path:
                raise Unexpected("pipelined: the answers are not in order")
            if answer.closes:
                return


async def upload(here: Visitor) -> None:
    """Bodies of several sizes, with a length, in chunks, and after 100; all come back."""
    async with here.connection() as connection:
        body = here.dice.randbytes(here.dice.choice(SIZES))
        answer = await here.call(connection, "POST", "/echo", body=body)
        require_body(answer, "POST /echo", body)
        if answer.closes:
            return
        body = here.dice.randbytes(here.dice.choice(SIZES))
        pieces = [body[at : at + CHUNK] for at in range(0, len(body), CHUNK)]
        connection.send(here.head("POST", "/echo", "Transfer-Encoding: chunked"))
        for piece in (*pieces, b""):
            connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        answer = await here.hear(connection, "POST /echo in chunks")
        require_status(answer, "POST /echo in chunks", 200)
        require_body(answer, "POST /echo in chunks", body)
        if not answer.closes:
            body = here.dice.randbytes(20_000)
            require_body(await here.continued(connection, "/echo", body), "after 100", body)


async def early(here: Visitor) -> None:
    """An upload that is answered before it has been sent."""
    async with here.connection() as connection:
        await here.call(connection, "POST", "/early", body=bytes(20_000), expected=413)


async def download(here: Visitor) -> None:
    """A megabyte."""
    async with here.connection() as connection:
        require_body(await here.call(connection, "GET", "/large"), "GET /large", api.LARGE)


async def streams(here: Visitor) -> None:
    """What comes bit by bit."""
    async with here.connection() as connection:
        answer = await here.call(connection, "GET", "/stream")
        require_body(answer, "GET /stream", STREAM)
        if not answer.closes:
            require_body(await here.call(connection, "GET", "/events"), "GET /events", EVENTS)


async def slow(here: Visitor) -> None:
    """An API that takes its time."""
    async with here.connection() as connection:
        await here.call(connection, "GET", "/slow")


async def failures(here: Visitor) -> None:
    """Answers that break off, or are none."""
    for path in FAILURES:
        async with here.connection() as connection:
            connection.send(here.head("GET", path))
            try:
                answer = await here.hear(connection, f"GET {path}")
            except Ended:
                continue
            if answered(answer):
                raise Unexpected(f"GET {path}: a whole answer where the API gave none")


async def critical(here: Visitor) -> None:
    """Calls that are never refused for a quota."""
    async with here.connection() as connection:
        for method, path in (("GET", "/status"), ("POST", "/login")):
            answer = await here.call(connection, method, path)
            if answer.status == 429:
                raise Unexpected(f"critical {method} {path}: refused")
            if answer.closes:
                return


async def tunnel(here: Visitor) -> None:
    """A WebSocket, as far as the sidecar knows."""
    path = here.dice.choice(("/tunnel", "/tunnel/short"))
    async with here.connection() as connection:
        fields = ("Connection: Upgrade", "Upgrade: websocket")
        answer = await here.call(connection, "GET", path, *fields, expected=101)
        if answer.status != 101:
            return
        here.ledger.happened["tunnels"] += 1
        for number in range(api.MESSAGES):
            message = b"message %d" % number * here.dice.randrange(1, 2_000)
            connection.send(message)
            try:
                back = await connection.exactly(len(message))
            except Ended:
                return  # the API was stopped
            if back != message:
                raise Unexpected(f"{path}: other bytes than were sent")
