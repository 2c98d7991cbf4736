"""The control port. It answers probes, Prometheus and people; it never sees a customer's call."""

import errno
import inspect
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, cast

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from sidecar.core.refusals.build import http_problem
from sidecar.core.refusals.rendering import render_json
from sidecar.errors import SettingsError
from sidecar.serve.readiness import Readiness

_ANSWER_WITHIN_S: Final = 2.0  # what stop() leaves to answers under way
_T = TypeVar("_T")
Asked = Callable[[], _T | Awaitable[_T]]  # a function or a coroutine function


class ControlServer:
    """Serves /healthz, /readyz, /metrics and /config on one address.

    `registry` holds the metrics; `ready` returns whether the process should get traffic, and what
    it is without; `config_status` a JSON object; `sick` why the process should be started again,
    which nobody who can answer for himself alone has to say. All are read per request and must
    not block.
    """

    def __init__(
        self,
        listen: tuple[str, int],
        *,
        registry: CollectorRegistry | Asked[CollectorRegistry],
        ready: Asked[Readiness],
        config_status: Asked[dict[str, Any]],
        sick: Asked[list[str]] = list,
    ) -> None:
        self._host, self._port = listen
        self._registry = registry
        self._ready = ready
        self._config_status = config_status
        self._sick = sick
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """The port that is listened on; the chosen one once started with port 0."""
        if self._runner is not None and self._runner.addresses:
            return int(self._runner.addresses[0][1])
        return self._port

    async def start(self) -> None:
        """Listen. Raises SettingsError that names --control when the address cannot be had."""
        app = web.Application(middlewares=[_problems])
        app.on_response_prepare.append(_unnamed)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/config", self._config)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_ANSWER_WITHIN_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except OSError as error:
            await runner.cleanup()
            raise SettingsError(_why_not(self._host, self._port, error)) from None
        self._runner = runner

    async def stop(self) -> None:
        """Stop listening, let answers under way finish. Idempotent."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        reasons = await _told(self._sick)
        if reasons:
            return web.Response(status=503, text="\n".join(reasons))
        return web.Response(text="ok")

    async def _readyz(self, _request: web.Request) -> web.Response:
        reasons, degraded = await _told(self._ready)
        body = {"ready": not reasons, "reasons": reasons, "degraded": degraded}
        return web.json_response(body, status=503 if reasons else 200)

    async def _metrics(self, request: web.Request) -> web.Response:
        # OpenMetrics for a client that asks for it, else Prometheus text.
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        registry = self._registry
        if not isinstance(registry, CollectorRegistry):
            registry = await _told(registry)
        body = encode(registry)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _config(self, _request: web.Request) -> web.Response:
        return web.json_response(await _told(self._config_status))


async def _told(asked: Asked[_T]) -> _T:
    answer = asked()
    if inspect.isawaitable(answer):
        return await cast("Awaitable[_T]", answer)
    return answer


def _why_not(host: str, port: int, error: OSError) -> str:
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return f"{shown} is in use; choose another with --control HOST:PORT (SIDECAR_CONTROL)"
    why = (error.strerror or str(error)).lower()
    return (
        f"cannot listen on {shown}: {why}; choose another with --control HOST:PORT "
        "(SIDECAR_CONTROL)"
    )


@web.middleware
async def _problems(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPNotFound:
        title, detail = "Not found", "Here are /healthz, /readyz, /metrics and /config."
        return _problem(404, title, detail, {})
    except web.HTTPMethodNotAllowed as error:
        allow = ", ".join(sorted(error.allowed_methods))
        return _problem(405, "Method not allowed", f"Use {allow}.", {"Allow": allow})
    return response


def _problem(status: int, title: str, detail: str, headers: dict[str, str]) -> web.Response:
    refusal = http_problem(status, title, detail, str(uuid.uuid4()))
    return web.Response(
        status=status,
        body=render_json(refusal),
        headers={**headers, "Content-Type": "application/problem+json"},
    )


async def _unnamed(_request: web.Request, response: web.StreamResponse) -> None:
    """Tell nobody which server and version this is."""
    response.headers.popall("Server", None)
