"""A Litestar application with plans."""

from typing import Any

from litestar import Litestar, Request, route
from litestar.middleware import DefineMiddleware
from litestar.response import Stream
from quota_sidecar import QuotaMiddleware

from tests.plugins.apps.common import OPTIONS
from tests.plugins.apps.relay_async import relay


@route("/{path:path}", http_method=["GET", "HEAD", "POST", "PUT"], status_code=200)
async def serve(request: Request[Any, Any, Any], path: str) -> Stream:
    target = request.scope["raw_path"].decode() + ("?" + request.url.query).rstrip("?")
    body = request.stream() if request.method in ("POST", "PUT") else b""
    status, fields, parts = await relay(request.method, target, request.headers.items(), body)
    return Stream(parts, status_code=status, headers=dict(fields))


app = Litestar([serve], middleware=[DefineMiddleware(QuotaMiddleware, options=OPTIONS)])
