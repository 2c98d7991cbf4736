"""The API behind the attacked sidecar: small and large answers, tunnels and absurd usage.

It is a process of its own: `python -m loadtests.hostile.api PORT`.
"""

import asyncio
import itertools
import sys
from contextlib import suppress
from typing import Final

import uvloop

from loadtests.soak.api import ConnectionEnd, Request, large, tunnel

# What a usage field must not do to the sidecar: huge, exponent, negative, nested, many digits.
_USAGE: Final = (
    b'{"usage": {"total_tokens": 9007199254740992}}',
    b'{"usage": {"total_tokens": 1e308}}',
    b'{"usage": {"total_tokens": -5}}',
    b'{"usage": {"total_tokens": %b}}' % (b"9" * 100_000),
    b'{"usage": %b' % (b"[" * 100_000),
    b'{"a":' * 50_000,
)
_ANSWERS: Final = itertools.cycle(_USAGE)


async def answer(request: Request) -> None:
    """Answer one request, by its path."""
    if request.path.startswith("/tunnel"):
        await tunnel(request)
    await request.body()
    if request.path == "/large":
        await large(request)
        return
    body = next(_ANSWERS) if request.path == "/chat" else b'{"ok": true}'
    await request.answer(body, "application/json")


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection."""
    request = Request(reader, writer)
    try:
        with suppress(ConnectionEnd, OSError, asyncio.IncompleteReadError):
            while True:
                await request.read_head()
                await answer(request)
                await writer.drain()
    finally:
        writer.close()


async def main() -> None:
    """Serve on 127.0.0.1, on the port given as the only argument."""
    port = int(sys.argv[1])
    server = await asyncio.start_server(serve, "127.0.0.1", port, backlog=1024, limit=1 << 18)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
