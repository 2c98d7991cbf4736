"""Calls inside Locust that its own clients cannot make, and questions beside them."""

import json
import socket
import time
import urllib.request
from typing import Any, Final

from locust import events
from prometheus_client.parser import text_string_to_metric_families

from loadtests.scenarios.locust_run import ASSIGNMENT

LONGEST_HEAD: Final = 65_536  # bytes
ANSWER_SECONDS: Final = 60.0


class RawRequest:
    """A call on a connection of its own. `status` stays 0 when no answer came."""

    __slots__ = ("_socket", "ended", "fields", "sent", "status")

    def __init__(self, key: str, path: str, *, method: str = "GET", sidecar: int = 0) -> None:
        """Connects and sends. Raises OSError."""
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
        """Wait for the head of the answer, and hang up."""
        had = b""
        try:
            while b"\r\n\r\n" not in had and len(had) < LONGEST_HEAD:
                data = self._socket.recv(4_096)
                if not data:
                    return self
                had += data
            first, *lines = had.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
            self.status = int(first.split(" ")[1])
            pairs = (line.partition(":") for line in lines)
            self.fields = {name.lower(): value.strip() for name, _, value in pairs}
        except OSError:
            pass  # no answer: the status says so
        finally:
            self.ended = time.monotonic()
            self._socket.close()
            self._note()
        return self

    def _note(self) -> None:
        """For Locust's own table."""
        failure = None if self.status in (200, 202, 429) else f"answered {self.status}"
        events.request.fire(  # type: ignore[no-untyped-call]
            request_type="raw", name="one call per connection",
            response_time=self.seconds * 1000, response_length=0, exception=failure, context={},
        )  # fmt: skip

    @property
    def seconds(self) -> float:
        """From sending to the head of the answer."""
        return self.ended - self.sent


def fetch_api(path: str) -> Any:
    """What the API itself answers. Raises OSError."""
    with urllib.request.urlopen(ASSIGNMENT.api + path, timeout=ANSWER_SECONDS) as answer:  # noqa: S310 - ours
        return json.loads(answer.read())


def metric(name: str) -> float:
    """A metric of the sidecar, the sum over its labels. Raises OSError."""
    with urllib.request.urlopen(ASSIGNMENT.control + "/metrics", timeout=ANSWER_SECONDS) as answer:  # noqa: S310 - ours
        text = answer.read().decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    )
