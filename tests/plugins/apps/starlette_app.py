"""A Starlette application with plans."""

from quota_sidecar import QuotaMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from tests.plugins.apps.common import OPTIONS
from tests.plugins.apps.relay_async import relay


async def serve(request: Request) -> Response:
    target = request.scope["raw_path"].decode() + ("?" + request.url.query).rstrip("?")
    body = request.stream() if request.method in ("POST", "PUT") else b""
    status, fields, parts = await relay(request.method, target, request.headers.items(), body)
    response = StreamingResponse(parts, status)
    response.raw_headers = [(name.lower().encode(), value.encode()) for name, value in fields]
    return response


async def echo(websocket: WebSocket) -> None:
    """Send the plan and what is left, then everything that comes."""
    await websocket.accept()
    quota = websocket.state.quota
    await websocket.send_json({"plan": quota.plan, "remaining": quota.remaining})
    async for text in websocket.iter_text():
        await websocket.send_text(text)


app = Starlette(
    routes=[
        WebSocketRoute("/v1/items/echo", echo),
        Route("/{path:path}", serve, methods=["GET", "HEAD", "POST", "PUT"]),
    ],
    middleware=[Middleware(QuotaMiddleware, options=OPTIONS)],
)
