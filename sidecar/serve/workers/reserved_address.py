"""An address that the supervisor holds while its workers listen on it."""

import socket
from pathlib import Path

from sidecar.addresses import Address, Endpoint, UnixPath
from sidecar.proxy.downstream.listener import bind_tcp, bind_unix, remove_unix


class ReservedAddress:
    """Holds an address until `release`. Raises SettingsError if it is unavailable.

    `endpoint`: the address, with the port that the kernel chose for port 0. `descriptor`: of a
    unix socket, which all workers share; None for TCP, where each worker has a listening socket of
    its own, so that the connections queued for a dead worker do not hold up the others. The TCP
    socket bound here does not listen, so it gets no connections.
    """

    def __init__(self, endpoint: Endpoint, mode: str, backlog: int, setting: str) -> None:
        self.endpoint = endpoint
        self.descriptor: int | None = None
        self._file: tuple[int, int] | None = None  # device and inode
        if isinstance(endpoint, UnixPath):
            sock = bind_unix(endpoint, int(mode, 8), backlog, setting)
            status = Path(endpoint.path).stat()
            self._file = (status.st_dev, status.st_ino)
            self._sockets: list[socket.socket] = [sock]
            self.descriptor = sock.fileno()
            return
        if endpoint.port:
            # Any process of this user may share the port: first fail if another one has it.
            for sock in bind_tcp(endpoint, reuse_port=False, setting=setting):
                sock.close()
        self._sockets = bind_tcp(endpoint, reuse_port=True, setting=setting)
        self.endpoint = Address(endpoint.host, int(self._sockets[0].getsockname()[1]))

    def release(self) -> None:
        """Remove the socket's file, and close the sockets. Idempotent."""
        if isinstance(self.endpoint, UnixPath) and self._file is not None:
            remove_unix(self.endpoint, self._file)
            self._file = None
        for sock in self._sockets:
            sock.close()
