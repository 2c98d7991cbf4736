"""The API behind the sidecar of the dashboards: `python -m loadtests.dashboards.api PORT`."""

import asyncio
import random
import sys
from typing import Final

from aiohttp import web

_SLOW_SHARE: Final = 0.05  # of the requests


async def answer(request: web.Request) -> web.StreamResponse:
    """Answer as `fault` in the query says: `drop` closes the connection, `error` fails."""
    await request.read()
    fault = request.query.get("fault")
    if fault == "drop" and request.transport is not None:
        request.transport.abort()
    if fault == "error":
        return web.json_response({"error": "failed"}, status=500)
    await asyncio.sleep(0.1 if random.random() < _SLOW_SHARE else 0.005)
    usage = {"none": {}, "huge": {"total_tokens": 9_000}}
    tokens = {"total_tokens": random.randint(50, 800)}
    return web.json_response({"usage": usage.get(fault or "", tokens)})


def main() -> None:
    """Serve on 127.0.0.1, on the port given as the only argument."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    web.run_app(
        application, host="127.0.0.1", port=int(sys.argv[1]), print=lambda _: None, access_log=None
    )


if __name__ == "__main__":
    main()
