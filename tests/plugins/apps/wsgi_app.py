"""A WSGI application without a framework, with plans."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from quota_sidecar import QuotaWsgiMiddleware

from tests.plugins.apps.common import OPTIONS
from tests.plugins.apps.relay_sync import relay_sync


def serve(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    fields = [
        (name[5:].replace("_", "-").title(), value)
        for name, value in environ.items()
        if name.startswith("HTTP_")
    ]
    if environ.get("CONTENT_TYPE"):
        fields.append(("Content-Type", environ["CONTENT_TYPE"]))
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    status, fields, parts = relay_sync(
        environ["REQUEST_METHOD"], environ["REQUEST_URI"], fields, body
    )
    start_response(f"{status} {HTTPStatus(status).phrase}", fields)
    return parts


app = QuotaWsgiMiddleware(serve, OPTIONS)
