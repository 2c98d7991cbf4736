"""The admission webhook: an HTTPS server that the API server asks about each new pod."""

import asyncio
import contextlib
import errno
import signal
import ssl
from typing import Final

from aiohttp import web

from sidecar import logs
from sidecar.addresses import Address
from sidecar.errors import ManifestError, SettingsError
from sidecar.kubernetes.admission import (
    PATCHED,
    REFUSED,
    Request,
    Verdict,
    answer,
    failure,
    read_review,
)
from sidecar.kubernetes.options import Options
from sidecar.kubernetes.review_metrics import LiveCertificate, ReviewMetrics

log = logs.logger("webhook")

PATH: Final = "/mutate"
MAX_BODY_BYTES: Final = 8 << 20  # the API server stores at most 1.5 MiB of an object
MOST_CONNECTIONS: Final = 256
BODY_TIMEOUT_S: Final = 10.0
IDLE_TIMEOUT_S: Final = 75.0
STOP_TIMEOUT_S: Final = 5.0
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Webhook:
    """Answers POST /mutate, and GET /healthz and /metrics, over TLS.

    `defaults` are the choices that a pod's annotations leave open.
    """

    def __init__(self, listen: Address, certificate: LiveCertificate, defaults: Options) -> None:
        self._listen = listen
        self._certificate = certificate
        self._defaults = defaults
        self.metrics = ReviewMetrics(certificate)
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_post(PATH, self._mutate)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=STOP_TIMEOUT_S,
            keepalive_timeout=IDLE_TIMEOUT_S,
        )
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port; with port 0, the one that the kernel chose at the start."""
        return int(self._server.sockets[0].getsockname()[1]) if self._server else 0

    async def start(self) -> None:
        """Listen. Raises SettingsError if the address cannot be used."""
        await self._runner.setup()
        host, port = self._listen
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._connection, host, port, ssl=self._context(), reuse_address=True
            )
        except OSError as error:
            await self._runner.cleanup()
            in_use = error.errno == errno.EADDRINUSE
            reason = (error.strerror or str(error)).lower()
            problem = "is in use" if in_use else f"cannot be used: {reason}"
            raise SettingsError(
                f"--listen: {self._listen} {problem}; choose another HOST:PORT"
            ) from None

    async def stop(self) -> None:
        """Stop listening, and let answers under way finish."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()

    def _context(self) -> ssl.SSLContext:
        """A TLS context that uses, for each new connection, the certificate that is live then."""
        base = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        base.minimum_version = ssl.TLSVersion.TLSv1_2
        base.options |= ssl.OP_NO_RENEGOTIATION

        def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            connection.context = self._certificate.context

        base.sni_callback = choose
        return base

    def _connection(self) -> asyncio.Protocol:
        server = self._runner.server
        if server is None or len(server.connections) >= MOST_CONNECTIONS:
            return _Refused()
        return server()

    async def _mutate(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await request.read()
            review = read_review(body)
        except ManifestError as error:
            self.metrics.reject()
            return web.Response(status=400, text=f"{error}\n")
        except TimeoutError:
            self.metrics.reject()
            return web.Response(status=408, text="the body took too long\n")
        verdict = self._verdict(review)
        self.metrics.count(review.kind, verdict.result)
        return web.json_response(verdict.review)

    def _verdict(self, review: Request) -> Verdict:
        try:
            verdict = answer(review, self._defaults)
        except Exception:  # a fault here must not keep pods from starting
            log.error("review_failed", kind=review.kind, namespace=review.namespace, exc_info=True)
            return failure(review)
        if verdict.result == PATCHED:
            log.info("pod_patched", namespace=review.namespace, workload=verdict.workload)
        elif verdict.result == REFUSED:
            log.warning(
                "injection_refused",
                kind=review.kind,
                namespace=review.namespace,
                workload=verdict.workload,
                error=verdict.error,
            )
        return verdict

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = self.metrics.exposition(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})


class _Refused(asyncio.Protocol):
    """A connection beyond the bound."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


async def serve(listen: Address, certificate: LiveCertificate, defaults: Options) -> None:
    """Serve until SIGTERM or SIGINT. SIGHUP reads the certificate again."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(logs.unhandled)
    ended = asyncio.Event()
    for number in SIGNALS:
        loop.add_signal_handler(number, ended.set)
    loop.add_signal_handler(signal.SIGHUP, certificate.reload)
    webhook = Webhook(listen, certificate, defaults)
    await webhook.start()
    watch = asyncio.ensure_future(certificate.watch())
    log.info("webhook_serving", listen=str(Address(listen.host, webhook.port)))
    try:
        await ended.wait()
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch
        await webhook.stop()
        log.info("webhook_stopped")
