"""The sockets of an entry point: TCP or unix, plain or TLS.

uvloop accepts plain connections. This module accepts TLS connections one by one: a handshake
counts as a connection from its first byte, a refused connection costs no handshake, and each
handshake uses the certificate that is live when it begins.
"""

import asyncio
import errno
import socket
import ssl
import stat
from pathlib import Path
from typing import Final, Protocol, TypeVar

from sidecar.addresses import Address, Endpoint, UnixPath
from sidecar.errors import SettingsError
from sidecar.logs import logger
from sidecar.metrics import Metrics
from sidecar.proxy.downstream.certificate import Certificate

log = logger("proxy")

BACKLOG: Final = 1024
TLS_CLOSE_S: Final = 5.0  # to wait for the client's close_notify
_BATCH: Final = 64  # connections accepted before other callbacks run
_FULL_PAUSE_S: Final = 0.5  # after the process ran out of descriptors or memory
_PROBE_S: Final = 1.0

_C = TypeVar("_C", bound=asyncio.Protocol)


class Acceptor(Protocol[_C]):
    """Makes the protocols of accepted connections, and limits their number."""

    def new_connection(self) -> _C:
        """The protocol of an accepted connection."""
        ...

    def take_slot(self, protocol: _C, peer: object) -> bool:
        """Take a slot before the handshake. Returns False if no slot is free."""
        ...

    def free_slot(self, protocol: _C) -> None:
        """Free the slot of a connection whose handshake failed. Idempotent."""
        ...


class Listener:
    """The sockets of one address. `handshake_failures` counts from the start of the process.

    `mode`: the file mode of a unix socket. `inherited`: a listening socket that another process
    bound and removes. `reuse_port`: several processes listen on the same TCP address, and the
    kernel spreads the connections. `setting`: the name of the address's setting, for errors.
    """

    def __init__(
        self,
        address: Endpoint,
        *,
        backlog: int = BACKLOG,
        mode: int = 0o660,
        reuse_port: bool = False,
        inherited: socket.socket | None = None,
        certificate: Certificate | None = None,
        handshake_timeout: float = 10.0,
        setting: str = "listen",
    ) -> None:
        self.address = address
        self.setting = setting
        self.certificate = certificate
        self.handshake_failures = 0
        self._backlog = backlog
        self._mode = mode
        self._reuse_port = reuse_port
        self._inherited = inherited
        self._handshake_timeout = handshake_timeout
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._handshakes: set[asyncio.Task[None]] = set()
        self._paused: dict[socket.socket, asyncio.TimerHandle] = {}
        self._own_file: tuple[int, int] | None = None

    @property
    def scheme(self) -> bytes:
        """The scheme of the clients' URLs: b"https" with a certificate, else b"http"."""
        return b"https" if self.certificate else b"http"

    @property
    def port(self) -> int:
        """The TCP port, also if the settings ask for port 0; 0 for a unix socket."""
        if isinstance(self.address, UnixPath) or not self._sockets:
            return 0
        return int(self._sockets[0].getsockname()[1])

    async def start(self, acceptor: Acceptor[_C]) -> None:
        """Listen. Raises SettingsError if the address is unavailable."""
        self._sockets = self._bind()
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            sock.setblocking(False)
            try:
                sock.listen(self._backlog)
            except OSError as error:  # two processes can bind a port, only one can listen
                await self.stop()
                raise unavailable(self.address, error, self.setting) from None
            if self.certificate is None:
                # A duplicate: the server closes the socket that it gets.
                server = await loop.create_server(
                    acceptor.new_connection, sock=sock.dup(), backlog=self._backlog
                )
                self._servers.append(server)
            else:
                loop.add_reader(sock.fileno(), self._accept, sock, self.certificate, acceptor)

    def publish(self, metrics: Metrics, prefix: str) -> None:
        """Publish the metrics of the certificate, if there is one, with this prefix."""
        certificate = self.certificate
        if certificate is None:
            return
        certificate.publish(metrics, prefix)
        metrics.counter(
            f"{prefix}_tls_handshake_failures",
            "TLS handshakes that failed or timed out.",
            lambda: self.handshake_failures,
        )

    def _bind(self) -> list[socket.socket]:
        if self._inherited is not None:
            return [self._inherited]
        if isinstance(self.address, UnixPath):
            sock = bind_unix(self.address, self._mode, self._backlog, self.setting)
            status = Path(self.address.path).stat()
            self._own_file = (status.st_dev, status.st_ino)
            return [sock]
        return bind_tcp(self.address, reuse_port=self._reuse_port, setting=self.setting)

    def _accept(
        self, sock: socket.socket, certificate: Certificate, acceptor: Acceptor[_C]
    ) -> None:
        for _ in range(_BATCH):
            try:
                connection, peer = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(sock, certificate, acceptor, error)
                return
            protocol = acceptor.new_connection()
            if not acceptor.take_slot(protocol, peer):
                connection.close()
                continue
            task = asyncio.get_running_loop().create_task(
                self._handshake(connection, protocol, certificate.context, acceptor)
            )
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    def _pause(
        self,
        sock: socket.socket,
        certificate: Certificate,
        acceptor: Acceptor[_C],
        error: OSError,
    ) -> None:
        """Leave connections in the kernel's queue for a while: no descriptors or memory."""
        log.error("accept_failed", listen=str(self.address), error=error.strerror)
        loop = asyncio.get_running_loop()
        loop.remove_reader(sock.fileno())
        self._paused[sock] = loop.call_later(
            _FULL_PAUSE_S,
            loop.add_reader,
            sock.fileno(),
            self._accept,
            sock,
            certificate,
            acceptor,
        )

    async def _handshake(
        self,
        connection: socket.socket,
        protocol: _C,
        context: ssl.SSLContext,
        acceptor: Acceptor[_C],
    ) -> None:
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=context,
                ssl_handshake_timeout=self._handshake_timeout,
                ssl_shutdown_timeout=TLS_CLOSE_S,
            )
        except (OSError, ssl.SSLError, TimeoutError) as error:
            self.handshake_failures += 1
            acceptor.free_slot(protocol)
            log.debug("tls_handshake_failed", error=str(error) or type(error).__name__)
        except asyncio.CancelledError:
            acceptor.free_slot(protocol)
            raise

    async def stop(self) -> None:
        """Stop accepting and cancel handshakes; open connections stay. Idempotent."""
        loop = asyncio.get_running_loop()
        for server in self._servers:
            server.close()
        for timer in self._paused.values():
            timer.cancel()
        sockets, self._sockets = self._sockets, []
        for sock in sockets:
            loop.remove_reader(sock.fileno())
            sock.close()
        self._servers.clear()
        for task in list(self._handshakes):
            task.cancel()
        await asyncio.gather(*self._handshakes, return_exceptions=True)
        if isinstance(self.address, UnixPath) and self._own_file is not None:
            remove_unix(self.address, self._own_file)
            self._own_file = None


def bind_tcp(address: Address, *, reuse_port: bool, setting: str = "listen") -> list[socket.socket]:
    """Bind a socket for each address of the host, all on one port.

    Raises SettingsError if one of them is unavailable.
    """
    bound: list[socket.socket] = []
    try:
        resolved = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, name in dict.fromkeys(resolved):
            sock = socket.socket(family, kind, protocol)
            bound.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            port = name[1] or bound[0].getsockname()[1]
            sock.bind((name[0], port, *name[2:]))
    except OSError as error:
        for sock in bound:
            sock.close()
        raise unavailable(address, error, setting) from None
    return bound


def bind_unix(address: UnixPath, mode: int, backlog: int, setting: str = "listen") -> socket.socket:
    """Listen on a unix socket with this file mode. It replaces one that a dead process left.

    The socket is created under another name and renamed: whenever it is at its path, it has its
    mode and listens. Raises SettingsError if the path is unavailable.
    """
    path = Path(address.path)
    require_unused(address, setting)
    new = path.with_name(path.name + ".new")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        new.unlink(missing_ok=True)
        sock.bind(str(new))
        new.chmod(mode)
        sock.listen(backlog)
        new.rename(path)
    except OSError as error:
        sock.close()
        raise unavailable(address, error, setting) from None
    return sock


def require_unused(address: UnixPath, setting: str) -> None:
    """Raise SettingsError if a socket listens at this path, or another file is there."""
    path, flag = Path(address.path), flag_of(setting)
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise SettingsError(
                f"{flag}: {address} cannot be used: the file exists and is not a socket; "
                f"remove it, or choose another with {flag} unix:/PATH ({variable_of(setting)})"
            )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(_PROBE_S)
            probe.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        return  # the file is missing, or a dead process left it
    except OSError as error:
        if error.errno != errno.EAGAIN:  # its queue is full: it is in use as well
            raise unavailable(address, error, setting) from None
    raise unavailable(address, OSError(errno.EADDRINUSE, "in use"), setting)


def remove_unix(address: UnixPath, own: tuple[int, int]) -> None:
    """Remove the socket's file, if it is still the one with this device and inode."""
    path = Path(address.path)
    try:
        status = path.lstat()
        if (status.st_dev, status.st_ino) == own:
            path.unlink()
    except FileNotFoundError:
        log.warning("socket_file_missing", path=address.path)


def unavailable(address: Endpoint, error: OSError, setting: str) -> SettingsError:
    """The error for an address on which the sidecar cannot listen."""
    if error.errno == errno.EADDRINUSE:
        reason = "is in use"
    else:
        reason = f"cannot be used: {(error.strerror or str(error)).lower()}"
    shape = "unix:/PATH" if isinstance(address, UnixPath) else "HOST:PORT"
    flag = flag_of(setting)
    return SettingsError(
        f"{flag}: {address} {reason}; choose another with {flag} {shape} ({variable_of(setting)})"
    )


def flag_of(setting: str) -> str:
    """The flag of a setting, for messages."""
    return "--" + setting.replace("_", "-")


def variable_of(setting: str) -> str:
    """The environment variable of a setting, for messages."""
    return "SIDECAR_" + setting.upper()
