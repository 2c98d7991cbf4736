"""A Django application with plans, by ASGI (`app`) and by WSGI (`wsgi`)."""

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import re_path
from quota_sidecar import QuotaMiddleware, QuotaWsgiMiddleware

from tests.plugins.apps.common import OPTIONS
from tests.plugins.apps.relay_async import relay
from tests.plugins.apps.relay_sync import relay_sync


async def serve(request: HttpRequest) -> HttpResponseBase:
    status, fields, parts = await relay(
        request.method or "", request.get_full_path(), request.headers.items(), request.body
    )
    return _response(status, fields, parts)


def serve_sync(request: HttpRequest) -> HttpResponseBase:
    status, fields, parts = relay_sync(
        request.method or "", request.get_full_path(), request.headers.items(), request.body
    )
    return _response(status, fields, parts)


def _response(status: int, fields: list[tuple[str, str]], parts: object) -> HttpResponseBase:
    response = StreamingHttpResponse(parts, status=status)
    for name, value in fields:
        response[name] = value
    return response


class AsyncUrls:
    urlpatterns = (re_path("", serve),)


class SyncUrls:
    urlpatterns = (re_path("", serve_sync),)


settings.configure(
    ROOT_URLCONF=AsyncUrls, ALLOWED_HOSTS=["127.0.0.1"], SECRET_KEY="of a test", MIDDLEWARE=[]
)
django.setup()


def wsgi() -> QuotaWsgiMiddleware:
    settings.ROOT_URLCONF = SyncUrls
    return QuotaWsgiMiddleware(get_wsgi_application(), OPTIONS)


app = QuotaMiddleware(get_asgi_application(), OPTIONS)
