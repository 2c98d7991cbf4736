"""Independent WebSocket ends: client and server of the websockets package, and starlette."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import websockets
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.support.http.asgi_api import PATIENCE_S, served
from tests.support.stage import Stage

GREETING = "hello"  # sent right after the handshake
FAREWELL = "close "  # a message that requests a close with the code after it
PROTOCOL = "chat.v2"  # a client without it is refused


class Echo:
    """Sends a greeting, echoes messages, and records the close codes of clients."""

    def __init__(self) -> None:
        self.url = ""
        self.codes: list[int | None] = []

    async def by_websockets(self, connection: websockets.ServerConnection) -> None:
        await connection.send(GREETING)
        try:
            while True:
                message = await connection.recv()
                if isinstance(message, str) and message.startswith(FAREWELL):
                    await connection.close(int(message.removeprefix(FAREWELL)), "as you wish")
                    return
                await connection.send(message)
        except websockets.ConnectionClosed:
            self.codes.append(connection.close_code)

    async def by_starlette(self, connection: WebSocket) -> None:
        if PROTOCOL not in connection.scope["subprotocols"]:
            await connection.close()  # before the handshake
            return
        await connection.accept(subprotocol=PROTOCOL)
        await connection.send_text(GREETING)
        try:
            while True:
                message = await connection.receive()
                if message["type"] == "websocket.disconnect":
                    raise WebSocketDisconnect(message["code"])
                if (text := message.get("text")) is None:
                    await connection.send_bytes(message["bytes"])
                elif text.startswith(FAREWELL):
                    await connection.close(int(text.removeprefix(FAREWELL)), "as you wish")
                    return
                else:
                    await connection.send_text(text)
        except WebSocketDisconnect as left:
            self.codes.append(left.code)


@contextlib.asynccontextmanager
async def websockets_echo() -> AsyncIterator[Echo]:
    echo = Echo()
    async with websockets.serve(
        echo.by_websockets, "127.0.0.1", 0, max_size=None, subprotocols=[PROTOCOL]
    ) as server:
        echo.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield echo


@contextlib.asynccontextmanager
async def starlette_echo() -> AsyncIterator[Echo]:
    echo = Echo()
    with served(Starlette(routes=[WebSocketRoute("/ws", echo.by_starlette)])) as (echo.url, _):
        yield echo


@contextlib.asynccontextmanager
async def connected(here: Stage, **options: Any) -> AsyncIterator[websockets.ClientConnection]:
    """A client's connection through the sidecar, after the greeting, with a timeout."""
    wishes = {
        "additional_headers": {"X-Api-Key": "acme"},
        "subprotocols": ["chat.v1", PROTOCOL],
        "max_size": None,
        "proxy": None,
    }
    url = f"ws://127.0.0.1:{here.app.data_port.port}/ws"
    async with (
        asyncio.timeout(PATIENCE_S),
        websockets.connect(url, **wishes | options) as connection,
    ):
        assert await connection.recv() == GREETING
        yield connection
