"""The sample API of the demo: a small shop without plans, API keys or limits.

`python -m sidecar.demo.api PORT` runs it alone, on 127.0.0.1.
"""

import asyncio
import itertools
import signal
import sys
from typing import Any

from aiohttp import web

PRODUCTS = [
    {"id": 1, "name": "teapot", "price": "18.00"},
    {"id": 2, "name": "kettle", "price": "32.00"},
    {"id": 3, "name": "cup", "price": "6.50"},
]


class SampleApi:
    """A sample API on 127.0.0.1."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._runner: web.AppRunner | None = None
        self._numbers = itertools.count(1)

    async def start(self) -> None:
        """Start listening."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        """Stop listening. Idempotent."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        account = request.headers.get("X-Account-Id")
        status, body = self._response(request.method, request.path)
        return web.json_response({**body, "account": account}, status=status)

    def _response(self, method: str, path: str) -> tuple[int, dict[str, Any]]:
        parts = [part for part in path.split("/") if part]
        match (method, parts):
            case ("GET" | "HEAD", ["v1", "status"]):
                return 200, {"status": "all systems up"}
            case ("POST", ["v1", "auth", *_]):
                return 200, {"session": f"session-{next(self._numbers)}"}
            case ("GET" | "HEAD", ["v1", _]):
                return 200, {"items": PRODUCTS}
            case ("GET" | "HEAD", ["v1", _, number]):
                return 200, {"id": number, "name": "teapot", "price": "18.00"}
            case ("POST", ["v1", name, *_]):
                return 201, {"created": f"{name}-{next(self._numbers)}"}
            case ("PUT" | "PATCH" | "DELETE", ["v1", *_]):
                return 200, {"done": True}
            case _:
                return 404, {"error": f"{path} does not exist"}


async def _serve(port: int) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    api = SampleApi(port)
    await api.start()
    await stopped.wait()
    await api.stop()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
