"""Both ends of very large transfers: blocking sockets in threads, one buffer each."""

import contextlib
import socket
import threading
from pathlib import Path

MEGABYTE = bytes(range(256)) * 4096
CHUNK = b"%x\r\n%b\r\n" % (len(MEGABYTE), MEGABYTE)
LAST_CHUNK = b"0\r\n\r\n"
PATIENCE_S = 60.0


def memory_kb(pid: int, name: str) -> int:
    """A field of /proc/PID/status: VmRSS is the resident memory, VmHWM its peak."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise KeyError(name)


def framing(megabytes: int, *, chunked: bool) -> bytes:
    if chunked:
        return b"Transfer-Encoding: chunked\r\n\r\n"
    return b"Content-Length: %d\r\n\r\n" % (megabytes << 20)


class Sender:
    """Sends bodies; `sent` is the number of megabytes that the kernel has taken."""

    def __init__(self) -> None:
        self.sent = 0

    def send(self, to: socket.socket, megabytes: int, *, chunked: bool) -> None:
        """Send a body."""
        for _ in range(megabytes):
            to.sendall(CHUNK if chunked else MEGABYTE)
            self.sent += 1
        if chunked:
            to.sendall(LAST_CHUNK)


def head(of: socket.socket) -> tuple[bytes, bytes]:
    """Read a head. Returns it with the first bytes of the body."""
    got = b""
    while b"\r\n\r\n" not in got:
        part = of.recv(1 << 16)
        if not part:
            raise ConnectionError(f"ended in the head: {got!r}")
        got += part
    start, end, rest = got.partition(b"\r\n\r\n")
    return start + end, rest


def take(of: socket.socket, start: bytes, rest: bytes) -> int:
    """Read and drop a body. Returns its size in bytes, with the framing of a chunked one."""
    buffer = bytearray(1 << 20)
    size, tail = len(rest), rest[-len(LAST_CHUNK) :]
    length = start.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
    while size < int(length) if length else tail != LAST_CHUNK:
        count = of.recv_into(buffer)
        if not count:
            raise ConnectionError(f"ended after {size} bytes")
        size += count
        tail = (tail + buffer[max(0, count - len(LAST_CHUNK)) : count])[-len(LAST_CHUNK) :]
    return size


class LargeApi(Sender):
    """Answers GET with a large body, and other methods with 204 after their body.

    It reads bodies once `go` is set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.megabytes = 1
        self.chunked = False
        self.go = threading.Event()
        self.go.set()
        self.taken: list[int] = []  # bytes of each body
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._connection = self._listener
        self._thread = threading.Thread(target=self._run, name="large api", daemon=True)

    def start(self) -> None:
        """Serve one connection at a time."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and close the current connection."""
        self.go.set()
        for one in (self._listener, self._connection):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE_S)
        self._listener.close()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._connection, _ = self._listener.accept()
                self._connection.settimeout(PATIENCE_S)
                with self._connection, contextlib.suppress(OSError):
                    while True:
                        self._serve(self._connection)

    def _serve(self, connection: socket.socket) -> None:
        start, rest = head(connection)
        if start.startswith(b"GET"):
            answer = b"HTTP/1.1 200 OK\r\n" + framing(self.megabytes, chunked=self.chunked)
            connection.sendall(answer)
            self.send(connection, self.megabytes, chunked=self.chunked)
        else:
            self.go.wait(PATIENCE_S)
            self.taken.append(take(connection, start, rest))
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")


class LargeClient(Sender):
    """One connection to the sidecar, read once `go` is set."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.go = threading.Event()
        self._port = port

    def get(self) -> int:
        """The size of the response body in bytes."""
        with socket.create_connection(("127.0.0.1", self._port), PATIENCE_S) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\n\r\n")
            self.go.wait(PATIENCE_S)
            return take(connection, *head(connection))

    def put(self, megabytes: int, *, chunked: bool) -> bytes:
        """Send a body of this many megabytes. Returns the head of the response."""
        with socket.create_connection(("127.0.0.1", self._port), PATIENCE_S) as connection:
            start = b"PUT / HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\n"
            connection.sendall(start + framing(megabytes, chunked=chunked))
            self.send(connection, megabytes, chunked=chunked)
            return head(connection)[0]
