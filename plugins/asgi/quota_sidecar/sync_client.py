"""The decide port, for threads."""

import atexit
import logging
import os
import select
import socket
import threading
import time
from collections import deque
from typing import Final

from quota_sidecar import wire
from quota_sidecar.contract import Decision, NoDecision, Refusal, parse_decision
from quota_sidecar.options import Options

log = logging.getLogger("quota_sidecar")

SENDERS: Final = 4  # threads that send reports
PAUSE_S: Final = 0.1  # before another attempt


class SyncClient:
    """Asks and reports over a bounded pool of kept connections. Thread-safe; one per process.

    `dropped`: reports that were given up. The sidecar settles those requests by its own rule.
    """

    def __init__(self, options: Options) -> None:
        self.dropped = 0
        self._options = options
        self._slots = threading.BoundedSemaphore(options.pool)
        self._idle: list[tuple[socket.socket, float]] = []  # append and pop are atomic
        self._reports: deque[tuple[bytes, int]] = deque()
        self._changed = threading.Condition()
        self._sending = 0  # reports in the hands of a thread
        self._threads = 0
        atexit.register(self.close)

    def decide(self, document: bytes) -> Decision | Refusal:
        """Ask about a request. Raises NoDecision."""
        status, body = self._ask("/v1/decide", document, self._options.decide_timeout_s)
        if 400 <= status < 500:
            log.error("the sidecar refused the question: %d %s", status, body[:500].decode())
        return parse_decision(status, body)

    def settle(self, document: bytes) -> None:
        """Send a report, in a thread of the client."""
        with self._changed:
            if len(self._reports) >= self._options.queue:
                self._reports.popleft()
                self._drop("the queue is full")
            self._reports.append((document, 0))
            if self._threads < min(SENDERS, self._options.pool):
                self._threads += 1
                threading.Thread(target=self._send_reports, daemon=True, name="quota").start()
            self._changed.notify()

    def close(self) -> None:
        """Send the reports that wait, within the time of all attempts."""
        until = time.monotonic() + self._options.attempts * self._options.timeout_s + 1
        with self._changed:
            while self._reports or self._sending:
                if not self._changed.wait(until - time.monotonic()):
                    break
        while self._idle:
            self._idle.pop()[0].close()

    def _send_reports(self) -> None:
        while True:
            with self._changed:
                while not self._reports:
                    self._changed.wait()
                document, attempts = self._reports.popleft()
                self._sending += 1
            again = self._send_report(document, attempts)
            with self._changed:
                if again:
                    self._reports.appendleft((document, attempts + 1))
                self._sending -= 1
                self._changed.notify_all()
            if again:
                time.sleep(PAUSE_S)

    def _send_report(self, document: bytes, attempts: int) -> bool:
        """Whether the report has to be sent again."""
        try:
            status, body = self._ask("/v1/settle", document, self._options.timeout_s)
        except NoDecision as error:
            status, body = 503, str(error).encode()
        if status == 200:
            return False
        if status >= 500 and attempts + 1 < self._options.attempts:
            return True
        self._drop(f"{status} {body[:500].decode(errors='replace')}")
        return False

    def _drop(self, why: str) -> None:
        self.dropped += 1
        log.error("a report was dropped: %s", why)

    def _ask(self, path: str, document: bytes, timeout_s: float) -> tuple[int, bytes]:
        until = time.monotonic() + timeout_s
        if not self._slots.acquire(timeout=timeout_s):
            raise NoDecision("no connection became free in time")
        try:
            return self._exchange(wire.message(self._options, path, document), until)
        except OSError as error:
            raise NoDecision(repr(error)) from None
        finally:
            self._slots.release()

    def _exchange(self, message: bytes, until: float) -> tuple[int, bytes]:
        sock = self._take() or self._connect(until)
        keeps = False
        try:
            sock.settimeout(_left(until))
            sock.sendall(message)
            data = b""
            while wire.END not in data:
                data += _receive(sock, until)
                if len(data) > wire.MAX_HEAD + wire.MAX_BODY:
                    raise NoDecision("the answer is too long")
            first, _, body = data.partition(wire.END)
            head = wire.parse_head(first)
            while len(body) < head.length:
                body += _receive(sock, until)
            keeps = head.keeps
        finally:
            if keeps:
                self._idle.append((sock, time.monotonic()))
            else:
                sock.close()
        return head.status, body

    def _take(self) -> socket.socket | None:
        """The idle connection that was used last; closes those that cannot be used."""
        while True:
            try:
                sock, since = self._idle.pop()
            except IndexError:
                return None
            poll = select.poll()
            poll.register(sock, select.POLLIN)
            if time.monotonic() - since < self._options.idle_s and not poll.poll(0):
                return sock
            sock.close()

    def _connect(self, until: float) -> socket.socket:
        options = self._options
        if options.path:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.settimeout(_left(until))
                sock.connect(options.path)
            except OSError:
                sock.close()
                raise
            return sock
        sock = socket.create_connection(options.host_port, timeout=_left(until))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if options.ssl is None:
            return sock
        try:
            return options.ssl.wrap_socket(sock, server_hostname=options.host_port[0])
        except OSError:
            sock.close()
            raise


class ProcessClient:
    """The client of this process. A server may fork after it has loaded the application."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._client: SyncClient | None = None
        self._process = 0
        os.register_at_fork(after_in_child=self._forked)

    def get(self) -> SyncClient:
        if self._client is None or self._process != os.getpid():
            with self._lock:
                if self._client is None or self._process != os.getpid():
                    self._client, self._process = SyncClient(self._options), os.getpid()
        return self._client

    def _forked(self) -> None:
        if self._client is not None:
            atexit.unregister(self._client.close)
        self._lock, self._client = threading.Lock(), None


def _left(until: float) -> float:
    """Seconds left, at least 1 ms: 0 would not wait at all."""
    return max(0.001, until - time.monotonic())


def _receive(sock: socket.socket, until: float) -> bytes:
    if time.monotonic() >= until:
        raise NoDecision("no answer in time")
    sock.settimeout(_left(until))
    data = sock.recv(65_536)
    if not data:
        raise NoDecision("the connection was closed")
    return data
