"""The API of the `customers` scenario: it answers each path with a little JSON."""

import sys

from aiohttp import web


async def answer(request: web.Request) -> web.Response:
    """Answer with the method and the path."""
    await request.read()
    return web.json_response({"method": request.method, "path": request.path})


def main() -> None:
    """Serve on 127.0.0.1, on the port given as the only argument."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    web.run_app(
        application, host="127.0.0.1", port=int(sys.argv[1]), print=lambda _: None, access_log=None
    )


if __name__ == "__main__":
    main()
