"""Requests that Locust's own clients cannot send, and helpers to query the API and the sidecar."""

import json
import socket
import time
import urllib.request
from typing import Any, Final

from locust import events
from prometheus_client.parser import text_string_to_metric_families

from loadtests.scenarios.locust_run import ASSIGNMENT

MAX_HEAD: Final = 65_536  # bytes
ANSWER_SECONDS: Final = 60.0


class RawRequest:
    """A request on a connection of its own.

    `status` stays 0 if no answer came.
    """

    __slots__ = ("_socket", "ended", "fields", "sent", "status")

    def __init__(self, key: str, path: str, *, method: str = "GET", sidecar: int = 0) -> None:
        """Connect and send. Raises OSError."""
        host, _, port = ASSIGNMENT.sidecars[sidecar].removeprefix("http://").rpartition(":")
        self._socket = socket.create_connection((host, int(port)), ANSWER_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.status = 0
        self.fields: dict[str, str] = {}
        self.sent = self.ended = time.monotonic()
        empty = "Content-Length: 0\r\n" if method == "POST" else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nX-Api-Key: {key}\r\n{empty}\r\n"
        self._socket.sendall(head.encode())

    def finish(self) -> "RawRequest":
        """Wait for the head of the answer, then close the connection."""
        received = b""
        try:
            while b"\r\n\r\n" not in received and len(received) < MAX_HEAD:
                data = self._socket.recv(4_096)
                if not data:
                    return self
                received += data
            first, *lines = received.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
            self.status = int(first.split(" ")[1])
            pairs = (line.partition(":") for line in lines)
            self.fields = {name.lower(): value.strip() for name, _, value in pairs}
        except OSError:
            pass  # no answer: the status stays 0
        finally:
            self.ended = time.monotonic()
            self._socket.close()
            self._note()
        return self

    def _note(self) -> None:
        """Report the request to Locust's statistics."""
        failure = None if self.status in (200, 202, 429) else f"answered {self.status}"
        events.request.fire(  # type: ignore[no-untyped-call]
            request_type="raw", name="one request per connection",
            response_time=self.seconds * 1000, response_length=0, exception=failure, context={},
        )  # fmt: skip

    @property
    def seconds(self) -> float:
        """Seconds from sending to the head of the answer."""
        return self.ended - self.sent


def fetch_api(path: str) -> Any:
    """The JSON body that the API itself answers. Raises OSError."""
    with urllib.request.urlopen(ASSIGNMENT.api + path, timeout=ANSWER_SECONDS) as answer:  # noqa: S310 - a local server
        return json.loads(answer.read())


def metric(name: str) -> float:
    """The sum of a metric of the first sidecar over its labels. Raises OSError."""
    with urllib.request.urlopen(ASSIGNMENT.control + "/metrics", timeout=ANSWER_SECONDS) as answer:  # noqa: S310 - a local server
        text = answer.read().decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    )
