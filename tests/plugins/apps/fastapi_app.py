"""A FastAPI application with plans."""

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from quota_sidecar import QuotaMiddleware

from tests.plugins.apps.common import OPTIONS
from tests.plugins.apps.relay_async import relay

app = FastAPI(openapi_url=None)
app.add_middleware(QuotaMiddleware, options=OPTIONS)


@app.api_route("/{path:path}", methods=["GET", "HEAD", "POST", "PUT"])
async def serve(request: Request) -> StreamingResponse:
    target = request.scope["raw_path"].decode() + ("?" + request.url.query).rstrip("?")
    body = request.stream() if request.method in ("POST", "PUT") else b""
    status, fields, parts = await relay(request.method, target, request.headers.items(), body)
    response = StreamingResponse(parts, status)
    response.raw_headers = [(name.lower().encode(), value.encode()) for name, value in fields]
    return response
