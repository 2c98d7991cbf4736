"""An API in a real framework under a real server: starlette under uvicorn, in a thread."""

import asyncio
import contextlib
import email
import gzip
import hashlib
import socket
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import parse_qsl

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

PATIENCE_S = 30  # timeout for a side that sends nothing; never a measure
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
TEXT = b"The same bytes on every connection. " * 500
GZIPPED = gzip.compress(TEXT, mtime=0)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def served(app: ASGIApp) -> Iterator[tuple[str, asyncio.AbstractEventLoop]]:
    """The app's URL on a free port of 127.0.0.1, and its event loop."""
    loop = asyncio.new_event_loop()
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = uvicorn.Config(
        app, http="h11", ws="websockets-sansio", lifespan="off", log_config=None,
        timeout_graceful_shutdown=1, ws_max_size=1 << 30,
    )  # fmt: skip
    server = uvicorn.Server(config)
    started = threading.Event()

    async def serve() -> None:
        loop.call_soon(started.set)
        await server.serve(sockets=[listener])

    def run() -> None:
        with contextlib.closing(loop):
            loop.run_until_complete(serve())
            loop.run_until_complete(loop.shutdown_default_executor())

    thread = threading.Thread(target=run, name="uvicorn", daemon=True)
    thread.start()
    try:
        assert started.wait(PATIENCE_S)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", loop
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)


class Api:
    """The app, with controls and records for tests."""

    def __init__(self, file: Path) -> None:
        self.url = ""
        self.loop: asyncio.AbstractEventLoop  # the app's
        self.arrived: defaultdict[str, int] = defaultdict(int)  # bytes of an upload, so far
        self.left: set[str] = set()  # streams whose reader has left
        self._file = file
        self._drips: defaultdict[str, asyncio.Queue[bytes]] = defaultdict(asyncio.Queue)
        self._meetings: dict[str, asyncio.Barrier] = {}
        self.app = Starlette(
            routes=[
                Route("/echo/{rest:path}", _echo, methods=METHODS),
                Route("/form", _form, methods=["POST"]),
                Route("/multipart", _multipart, methods=["POST"]),
                Route("/upload/{name}", self._upload, methods=["POST", "PUT"]),
                Mount("/duplex", _duplex),
                Route("/too-large", _too_large, methods=["POST", "PUT"]),
                Route("/drip/{name}", self._drip),
                Route("/gzip", _gzip),
                Route("/cookies", _cookies),
                Route("/redirect/{code:int}", _redirect, methods=METHODS),
                Route("/status/{code:int}", _status, methods=METHODS),
                Route("/file", self._serve_file),
                Route("/together/{name}/{count:int}", self._together),
            ]
        )

    def drip(self, name: str, data: bytes) -> None:
        """Send these bytes on the stream `/drip/{name}`; b"" ends it."""
        self.loop.call_soon_threadsafe(lambda: self._drips[name].put_nowait(data))

    async def _drip(self, request: Request) -> Response:
        name = request.path_params["name"]

        async def drops() -> AsyncIterator[bytes]:
            try:
                while drop := await self._drips[name].get():
                    yield drop
            except asyncio.CancelledError:
                self.left.add(name)
                raise

        return StreamingResponse(drops(), media_type=request.query_params.get("type"))

    async def _upload(self, request: Request) -> Response:
        name = request.path_params["name"]
        checksum = hashlib.sha256()
        with contextlib.suppress(ClientDisconnect):
            async for piece in request.stream():
                checksum.update(piece)
                self.arrived[name] += len(piece)
        return JSONResponse({"size": self.arrived[name], "sha256": checksum.hexdigest()})

    async def _together(self, request: Request) -> Response:
        """Respond when all requests have arrived."""
        name, count = request.path_params["name"], request.path_params["count"]
        meeting = self._meetings.setdefault(name, asyncio.Barrier(count))
        async with asyncio.timeout(PATIENCE_S):
            await meeting.wait()
        return JSONResponse({"query": request.url.query})

    async def _serve_file(self, _request: Request) -> Response:
        return FileResponse(self._file)


async def _echo(request: Request) -> Response:
    body = await request.body()
    document = {
        "method": request.method,
        "target": request.scope["raw_path"].decode(),
        "query": request.url.query,
        "headers": request.headers.items(),
        "size": len(body),
        "sha256": digest(body),
    }
    return JSONResponse(document)


async def _form(request: Request) -> Response:
    return JSONResponse(parse_qsl((await request.body()).decode()))


async def _multipart(request: Request) -> Response:
    """The name, file name, type and digest of each part."""
    head = b"Content-Type: " + request.headers["content-type"].encode() + b"\r\n\r\n"
    parts = email.message_from_bytes(head + await request.body()).get_payload()
    document = [
        (
            part.get_param("name", header="content-disposition"),
            part.get_filename(),
            part.get_content_type(),
            digest(part.get_payload(decode=True)),
        )
        for part in parts
    ]
    return JSONResponse(document)


async def _duplex(_scope: Scope, receive: Receive, send: Send) -> None:
    """Send each piece of the body back before the next one arrives."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    more = True
    while more:
        part = await receive()
        more = part.get("more_body", False)
        await send({"type": "http.response.body", "body": part["body"], "more_body": more})


async def _too_large(_request: Request) -> Response:
    """Respond before reading the body."""
    return JSONResponse({"error": "too large for this API"}, 413)


async def _gzip(_request: Request) -> Response:
    return Response(GZIPPED, headers={"Content-Encoding": "gzip", "Vary": "Accept-Encoding"})


async def _cookies(request: Request) -> Response:
    answer = JSONResponse(request.cookies)
    answer.set_cookie("session", "s1", httponly=True)
    answer.set_cookie("theme", "dark", max_age=3600)
    answer.set_cookie("last", "a,b; c", path="/cookies")
    return answer


async def _redirect(request: Request) -> Response:
    return RedirectResponse("/echo/redirected?from=here", request.path_params["code"])


async def _status(request: Request) -> Response:
    return Response(status_code=request.path_params["code"], headers={"ETag": '"v1"'})
