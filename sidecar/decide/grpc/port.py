"""The gRPC server of the decide port."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

import grpc
import grpc.aio

from sidecar.addresses import Endpoint, UnixPath
from sidecar.decide.callers import TOKEN, Callers
from sidecar.decide.decisions import Decisions
from sidecar.decide.documents import InvalidDocument
from sidecar.decide.grpc.access_log import AccessLog
from sidecar.decide.grpc.check import Checker
from sidecar.decide.grpc.tls import credentials
from sidecar.logs import logger
from sidecar.proxy.downstream.certificate import Certificate
from sidecar.proxy.downstream.listener import bind_tcp, remove_unix, require_unused, unavailable

log = logger("decide")

SETTLE: Final = "x-decide-settle"  # metadata of a Check: "false" if its end is not reported
_TOKEN: Final = TOKEN.decode()
_MOST_CALLS: Final = 10_000  # at a time
_END_S: Final = 0.5  # for the responses that are being written
_SWEEP_S: Final = 1.0
_SETTING: Final = "decide_grpc"


class GrpcPort:
    """Serves Envoy. `mode`: the file mode of a unix socket. `max_message`: bytes of a message.

    `certificate`: for TLS. `reuse_port`: several processes listen on the same TCP address.
    """

    def __init__(
        self,
        address: Endpoint,
        callers: Callers,
        *,
        mode: int,
        max_message: int,
        certificate: Certificate | None = None,
        reuse_port: bool = False,
    ) -> None:
        self.address = address
        self.port = 0  # the TCP port, also if the settings ask for port 0
        self.certificate = certificate
        self._callers = callers
        self._mode = mode
        self._max_message = max_message
        self._reuse_port = reuse_port
        self._own_file: tuple[int, int] | None = None
        self._server: Any = None
        self._sweep: asyncio.Task[None] | None = None

    async def start(self, decisions: Decisions, checker: Checker, access_log: AccessLog) -> None:
        """Listen. Raises SettingsError if the address is unavailable."""
        self._checker, self._access_log = checker, access_log
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", self._max_message),
                ("grpc.so_reuseport", int(self._reuse_port)),
            ],
            maximum_concurrent_rpcs=_MOST_CALLS,
        )
        check = grpc.unary_unary_rpc_method_handler(self._check)
        take_logs = grpc.stream_unary_rpc_method_handler(self._take_logs)
        handlers = (
            grpc.method_handlers_generic_handler(
                "envoy.service.auth.v3.Authorization", {"Check": check}
            ),
            grpc.method_handlers_generic_handler(
                "envoy.service.accesslog.v3.AccessLogService", {"StreamAccessLogs": take_logs}
            ),
        )
        self._server.add_generic_rpc_handlers(handlers)
        if isinstance(self.address, UnixPath):
            self._bind_unix(self.address)
        else:
            if not self._reuse_port:  # the reason for a failure, which gRPC does not report
                for sock in bind_tcp(self.address, reuse_port=False, setting=_SETTING):
                    sock.close()
            self.port = self._add(str(self.address))
        await self._server.start()
        self._sweep = asyncio.create_task(_sweep(decisions))

    def _bind_unix(self, address: UnixPath) -> None:
        """Listen in a private directory, and then move the socket to its path.

        So whenever the socket is at its path, it has its mode; before, no other user reaches it.
        """
        path = Path(address.path)
        require_unused(address, _SETTING)
        with _private_directory(address) as directory:
            new = directory / "s"
            self._add(f"unix:{new}")
            new.chmod(self._mode)
            status = new.rename(path).stat()
        self._own_file = (status.st_dev, status.st_ino)

    def _add(self, address: str) -> int:
        try:
            if self.certificate is None:
                return int(self._server.add_insecure_port(address))
            return int(self._server.add_secure_port(address, credentials(self.certificate)))
        except RuntimeError:
            raise unavailable(
                self.address, OSError(0, "gRPC cannot listen on it"), _SETTING
            ) from None

    # requests

    async def _check(self, data: bytes, context: Any) -> bytes:
        metadata = await self._metadata(context)
        try:
            return await self._checker.check(data, settles=metadata.get(SETTLE) != "false")
        except InvalidDocument as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except Exception as error:
            log.error("check_failed", exc_info=error)
            await context.abort(grpc.StatusCode.INTERNAL, "an internal error occurred")
        return b""  # abort has raised

    async def _take_logs(self, messages: AsyncIterator[bytes], context: Any) -> bytes:
        await self._metadata(context)
        try:
            async for message in messages:
                await self._access_log.take(message)
        except InvalidDocument as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return b""

    async def _metadata(self, context: Any) -> dict[str, str]:
        """The metadata of a call. Ends the call of an unknown caller."""
        metadata = [(name, value) for name, value in context.invocation_metadata() or ()]
        tokens = [
            (TOKEN, b"%b: %b" % (TOKEN, value.encode()))
            for name, value in metadata
            if name == _TOKEN and isinstance(value, str)
        ]
        if not self._callers.trusts(tokens):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, f"{_TOKEN}: is missing or unknown")
        return dict(metadata)

    # the end

    async def stop(self) -> None:
        """End all calls, those in flight after a moment. Idempotent."""
        if self._sweep is not None:
            self._sweep.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweep
            self._sweep = None
        if self._server is not None:
            await self._server.stop(_END_S)
            self._server = None
        if isinstance(self.address, UnixPath) and self._own_file is not None:
            remove_unix(self.address, self._own_file)
            self._own_file = None


@contextlib.contextmanager
def _private_directory(address: UnixPath) -> Iterator[Path]:
    """A directory beside a socket's path that only this user can enter."""
    try:
        directory = Path(mkdtemp(prefix=".", dir=Path(address.path).parent))
    except OSError as error:
        raise unavailable(address, error, _SETTING) from None
    try:
        yield directory
    except OSError as error:
        raise unavailable(address, error, _SETTING) from None
    finally:
        with contextlib.suppress(OSError):
            (directory / "s").unlink(missing_ok=True)
            directory.rmdir()


async def _sweep(decisions: Decisions) -> None:
    """Settle overdue decisions until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(_SWEEP_S)
        decisions.sweep(loop.time())
