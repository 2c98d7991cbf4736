"""The sockets of the data port: TCP or unix, plain or TLS.

Plain connections are accepted by uvloop. Those that begin with a TLS handshake are accepted
here, one by one: so each handshake counts as a connection from its first byte, a refused one
costs no handshake, and each one takes the certificate that is live when it begins.
"""

import asyncio
import errno
import socket
import ssl
import stat
from pathlib import Path
from typing import Final, Protocol, TypeVar

from sidecar.addresses import Address, UnixPath, Where
from sidecar.errors import SettingsError
from sidecar.logs import logger
from sidecar.metrics import Metrics
from sidecar.proxy.downstream.certificate import Certificate

log = logger("proxy")

BACKLOG: Final = 1024
TLS_CLOSE_S: Final = 5.0  # for the client's close_notify
_BATCH: Final = 64  # accepted in one go before others get their turn
_FULL_PAUSE_S: Final = 0.5  # after the process ran out of descriptors or memory
_PROBE_S: Final = 1.0


_C = TypeVar("_C", bound=asyncio.Protocol)


class Acceptor(Protocol[_C]):
    """What a listener asks about each connection that comes."""

    def make(self) -> _C:
        """The protocol of a new connection."""
        ...

    def arrives(self, protocol: _C, peer: object) -> bool:
        """Whether there is room for it, before its handshake. If so, its place is taken."""
        ...

    def leaves(self, protocol: _C) -> None:
        """Its handshake failed: the place is free again. Idempotent."""
        ...


class Listener:
    """One address and its sockets. `handshake_failures` counts since the start.

    `inherited`: a listening socket that somebody else bound and will remove. `reuse_port`:
    other processes listen on the same TCP address, and the kernel spreads connections.
    """

    def __init__(
        self,
        where: Where,
        *,
        backlog: int = BACKLOG,
        mode: int = 0o660,
        reuse_port: bool = False,
        inherited: socket.socket | None = None,
        certificate: Certificate | None = None,
        handshake_timeout: float = 10.0,
    ) -> None:
        self.where = where
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
        """What clients speak: b"https" with a certificate, else b"http"."""
        return b"https" if self.certificate else b"http"

    @property
    def port(self) -> int:
        """The TCP port listened on (useful after asking for port 0); 0 for a unix socket."""
        if isinstance(self.where, UnixPath) or not self._sockets:
            return 0
        return int(self._sockets[0].getsockname()[1])

    async def start(self, acceptor: Acceptor[_C]) -> None:
        """Listen. Raises SettingsError when the address cannot be had."""
        self._sockets = self._bind()
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            sock.setblocking(False)
            try:
                sock.listen(self._backlog)
            except OSError as error:  # two may bind a port, one of them may listen
                await self.stop()
                raise SettingsError(_why_not(self.where, error)) from None
            if self.certificate is None:
                # A descriptor of its own: the server closes what it is given.
                server = await loop.create_server(
                    acceptor.make, sock=sock.dup(), backlog=self._backlog
                )
                self._servers.append(server)
            else:
                loop.add_reader(sock.fileno(), self._accept, sock, acceptor)

    def publish(self, metrics: Metrics) -> None:
        """What is known of the certificate; nothing without one."""
        certificate = self.certificate
        if certificate is None:
            return
        metrics.gauge("sidecar_tls_certificate_expiry_timestamp_seconds",
                      "When the live certificate expires.",
                      lambda: certificate.not_after)  # fmt: skip
        metrics.gauge("sidecar_tls_certificate_ok",
                      "1 while the live certificate is the one in the files.",
                      lambda: float(certificate.good))  # fmt: skip
        metrics.counter("sidecar_tls_reloads", "Certificates that replaced another.",
                        lambda: certificate.reloads)  # fmt: skip
        metrics.counter("sidecar_tls_reload_failures", "Certificates that were refused.",
                        lambda: certificate.failures)  # fmt: skip
        metrics.counter("sidecar_tls_handshake_failures", "Handshakes that failed or were slow.",
                        lambda: self.handshake_failures)  # fmt: skip

    def _bind(self) -> list[socket.socket]:
        if self._inherited is not None:
            return [self._inherited]
        if isinstance(self.where, UnixPath):
            sock = bind_unix(self.where, self._mode, self._backlog)
            found = Path(self.where.path).stat()
            self._own_file = (found.st_dev, found.st_ino)
            return [sock]
        return bind_tcp(self.where, reuse_port=self._reuse_port)

    def _accept(self, sock: socket.socket, acceptor: Acceptor[_C]) -> None:
        for _ in range(_BATCH):
            try:
                connection, peer = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(sock, acceptor, error)
                return
            protocol = acceptor.make()
            if not acceptor.arrives(protocol, peer):
                connection.close()
                continue
            task = asyncio.get_running_loop().create_task(
                self._shake_hands(connection, protocol, acceptor)
            )
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    def _pause(self, sock: socket.socket, acceptor: Acceptor[_C], error: OSError) -> None:
        """No descriptors or memory: those who wait stay in the kernel's queue for a while."""
        log.error("accept_failed", listen=str(self.where), error=error.strerror)
        loop = asyncio.get_running_loop()
        loop.remove_reader(sock.fileno())
        self._paused[sock] = loop.call_later(
            _FULL_PAUSE_S, loop.add_reader, sock.fileno(), self._accept, sock, acceptor
        )

    async def _shake_hands(
        self, connection: socket.socket, protocol: _C, acceptor: Acceptor[_C]
    ) -> None:
        assert self.certificate is not None  # noqa: S101 - only then are connections accepted here
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=self.certificate.context,
                ssl_handshake_timeout=self._handshake_timeout,
                ssl_shutdown_timeout=TLS_CLOSE_S,
            )
        except (OSError, ssl.SSLError, TimeoutError) as error:
            self.handshake_failures += 1
            acceptor.leaves(protocol)
            log.debug("tls_handshake_failed", error=str(error) or type(error).__name__)
        except asyncio.CancelledError:
            acceptor.leaves(protocol)
            raise

    async def stop(self) -> None:
        """Accept no more and break off handshakes; connections live on. Idempotent."""
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
        if isinstance(self.where, UnixPath) and self._own_file is not None:
            remove_unix(self.where, self._own_file)
            self._own_file = None


def bind_tcp(address: Address, *, reuse_port: bool) -> list[socket.socket]:
    """A bound socket for each address that the host has; all on one port.

    Raises SettingsError when one of them cannot be had.
    """
    bound: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, place in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            bound.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            port = place[1] or bound[0].getsockname()[1]
            sock.bind((place[0], port, *place[2:]))
    except OSError as error:
        for sock in bound:
            sock.close()
        raise SettingsError(_why_not(address, error)) from None
    return bound


def bind_unix(where: UnixPath, mode: int, backlog: int) -> socket.socket:
    """A listening unix socket with this file mode, in place of one that a dead process left.

    It is made under another name and renamed, so nobody ever finds it with other rights or
    before it listens. Raises SettingsError when the path cannot be had.
    """
    path = Path(where.path)
    _require_nobody_there(where)
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
        raise SettingsError(_why_not(where, error)) from None
    return sock


def _require_nobody_there(where: UnixPath) -> None:
    path = Path(where.path)
    try:
        found = path.lstat()
        if not stat.S_ISSOCK(found.st_mode):
            raise SettingsError(
                f"{where} cannot be listened on: the file is there and is no socket; "
                "remove it, or choose another with --listen (SIDECAR_LISTEN)"
            )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(_PROBE_S)
            probe.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        return  # nothing there, or left behind by a process that is gone
    except OSError as error:
        if error.errno != errno.EAGAIN:  # its queue is full: somebody lives there, too
            raise SettingsError(_why_not(where, error)) from None
    raise SettingsError(_why_not(where, OSError(errno.EADDRINUSE, "in use")))


def remove_unix(where: UnixPath, own: tuple[int, int]) -> None:
    """Remove the socket's file, if it is still the one with this device and inode."""
    path = Path(where.path)
    try:
        found = path.lstat()
        if (found.st_dev, found.st_ino) == own:
            path.unlink()
    except FileNotFoundError:
        log.warning("socket_removed", path=where.path)


def _why_not(where: Where, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        why = "is in use"
    else:
        why = f"cannot be listened on: {(error.strerror or str(error)).lower()}"
    shape = "unix:/PATH" if isinstance(where, UnixPath) else "HOST:PORT"
    return f"{where} {why}; choose another with --listen {shape} (SIDECAR_LISTEN)"
