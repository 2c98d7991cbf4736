"""The control port: probes, metrics and the state of the plan file. No customer reaches it."""

import errno
import inspect
import json
import uuid
from collections.abc import Awaitable, Callable, Iterable
from functools import cache
from importlib import resources
from typing import Any, Final, TypeVar, cast

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from sidecar.core.refusals.build import http_problem
from sidecar.core.refusals.problems import OWN_TYPES
from sidecar.core.refusals.rendering import render_json
from sidecar.errors import SettingsError
from sidecar.serve.control_access import Access, ControlAccess
from sidecar.serve.control_hosts import ControlHosts
from sidecar.serve.readiness import Readiness

PATHS: Final = "/healthz, /readyz, /metrics, /config, /reload and /openapi.json"
_BEARER: Final = 'Bearer realm="control"'
# Status, title, detail, remedy, and the challenge (RFC 6750) of a request that is not allowed.
_DENIED: Final = {
    Access.NO_TOKEN: (
        401, "Token needed", "This path needs a token.",
        "Send Authorization: Bearer, with a token of the token file.", _BEARER,
    ),
    Access.WRONG_TOKEN: (
        401, "Wrong token", "The token file of the sidecar does not have this token.",
        "Send a token of the token file.", f'{_BEARER}, error="invalid_token"',
    ),
    Access.FILE_UNUSABLE: (
        503, "No token", "The token file of the sidecar cannot be used now.",
        "Correct the file; the log event control_token_unusable has the cause.", "",
    ),
    Access.NOT_CONFIGURED: (
        403, "No token file", "Without a token file, /config answers only to its own machine, and "
        "/reload to no client.",
        "Start the sidecar with --control-token-file FILE.", "",
    ),
}  # fmt: skip
_STOP_TIMEOUT_S: Final = 2.0  # for answers that `stop` finds under way
_T = TypeVar("_T")
Source = Callable[[], _T | Awaitable[_T]]  # a function or a coroutine function


class ControlPort:
    """Serves PATHS on one address.

    It reads every source once per request, and none may block. `registry`: the metrics. `ready`:
    the readiness of the process. `config_status`: a JSON object. `faults`: reasons to restart the
    process; a process that answers for itself alone has none. `reload`: requests a reload of plan
    file and certificate. `access`: who may see `config_status` and reload. `hosts`: names that it
    answers to, in addition to addresses and this machine's names.
    """

    def __init__(
        self,
        listen: tuple[str, int],
        *,
        registry: CollectorRegistry | Source[CollectorRegistry],
        ready: Source[Readiness],
        config_status: Source[dict[str, Any]],
        reload: Callable[[], None],
        access: ControlAccess,
        faults: Source[list[str]] = list,
        hosts: Iterable[str] = (),
    ) -> None:
        self._host, self._port = listen
        self._registry = registry
        self._ready = ready
        self._config_status = config_status
        self._faults = faults
        self._reload = reload
        self._access = access
        self._hosts = ControlHosts((*hosts, self._host))
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """The port; after a start with port 0, the one that the kernel chose."""
        if self._runner is not None and self._runner.addresses:
            return int(self._runner.addresses[0][1])
        return self._port

    async def start(self) -> None:
        """Listen. Raises SettingsError, which names --control, if the address cannot be used."""
        app = web.Application(middlewares=[_problems, self._check_host])
        app.on_response_prepare.append(_set_headers)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/config", self._config)
        app.router.add_post("/reload", self._request_reload)
        app.router.add_get("/openapi.json", _openapi)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_STOP_TIMEOUT_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except OSError as error:
            await runner.cleanup()
            raise SettingsError(_listen_error(self._host, self._port, error)) from None
        self._runner = runner

    async def stop(self) -> None:
        """Stop listening and let answers under way finish. Idempotent."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    @web.middleware
    async def _check_host(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if not self._hosts.allow(request.headers.get("Host")):
            detail = (
                "The control port does not answer to this host name. Use its IP address, or name "
                "the host in --control-hosts."
            )
            return _problem(400, "Unknown host", detail, {})
        response: web.StreamResponse = await handler(request)
        return response

    async def _healthz(self, _request: web.Request) -> web.Response:
        faults = await _read(self._faults)
        if faults:
            return web.Response(status=503, text="\n".join(faults))
        return web.Response(text="ok")

    async def _readyz(self, _request: web.Request) -> web.Response:
        reasons, degraded = await _read(self._ready)
        body = {"ready": not reasons, "reasons": reasons, "degraded": degraded}
        return web.json_response(body, status=503 if reasons else 200)

    async def _metrics(self, request: web.Request) -> web.Response:
        # OpenMetrics for a client that accepts it, else Prometheus text.
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        registry = self._registry
        if not isinstance(registry, CollectorRegistry):
            registry = await _read(registry)
        body = encode(registry)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _config(self, request: web.Request) -> web.Response:
        refusal = self._refusal(request, changes=False)
        return refusal or web.json_response(await _read(self._config_status))

    async def _request_reload(self, request: web.Request) -> web.Response:
        refusal = self._refusal(request, changes=True)
        if refusal is None:
            self._reload()
        return refusal or web.json_response({"requested": True}, status=202)

    def _refusal(self, request: web.Request, *, changes: bool) -> web.Response | None:
        """The answer to a request that may not see or change the configuration."""
        given = request.headers.getall("Authorization", [])
        authorization = given[0] if len(given) == 1 else None
        access = self._access.decide(authorization, request.remote, changes=changes)
        if access is Access.ALLOWED:
            return None
        return _denial(access)


async def _read(source: Source[_T]) -> _T:
    value = source()
    if inspect.isawaitable(value):
        return await cast("Awaitable[_T]", value)
    return value


def _listen_error(host: str, port: int, error: OSError) -> str:
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    remedy = "choose another with --control HOST:PORT (SIDECAR_CONTROL)"
    if error.errno == errno.EADDRINUSE:
        return f"--control: {address} is in use; {remedy}"
    reason = (error.strerror or str(error)).lower()
    return f"--control: {address} cannot be used: {reason}; {remedy}"


@web.middleware
async def _problems(request: web.Request, handler: Any) -> web.StreamResponse:
    """Answer errors of aiohttp's router with problem details (RFC 9457)."""
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPNotFound:
        return _problem(404, "Not found", f"The control port has {PATHS}.", {})
    except web.HTTPMethodNotAllowed as error:
        allow = ", ".join(sorted(error.allowed_methods))
        return _problem(405, "Method not allowed", f"Use {allow}.", {"Allow": allow})
    return response


def _problem(status: int, title: str, detail: str, headers: dict[str, str]) -> web.Response:
    refusal = http_problem(status, title, detail, str(uuid.uuid4()))
    return _problem_json(status, render_json(refusal), headers)


def _problem_json(status: int, body: bytes, headers: dict[str, str]) -> web.Response:
    headers = {**headers, "Content-Type": "application/problem+json"}
    return web.Response(status=status, body=body, headers=headers)


@cache
def openapi() -> bytes:
    """The OpenAPI document of the control port."""
    return (resources.files("sidecar.serve") / "openapi.json").read_bytes()


async def _openapi(_request: web.Request) -> web.Response:
    return web.Response(body=openapi(), content_type="application/json")


def _denial(access: Access) -> web.Response:
    status, title, detail, remedy, challenge = _DENIED[access]
    body = {
        "type": f"{OWN_TYPES}control-access",
        "title": title,
        "status": status,
        "detail": detail,
        "how_to_fix": [{"action": "use_token", "what": remedy}],
        "request_id": str(uuid.uuid4()),
    }
    headers = {"WWW-Authenticate": challenge} if challenge else {}
    return _problem_json(status, json.dumps(body).encode(), headers)


async def _set_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.popall("Server", None)
    response.headers["X-Content-Type-Options"] = "nosniff"
