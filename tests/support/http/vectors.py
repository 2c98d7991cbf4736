"""The corpus of raw requests: reads a case, and plays it on one connection."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from tests.support.http.strict_http import Message
from tests.support.proxy_stage import SidecarThread, client

Vector = dict[str, Any]
VECTORS: list[Vector] = json.loads(Path(__file__).with_name("http_vectors.json").read_text())
_REPEAT = re.compile(r"\{\{(.*?)\*([0-9]+)\}\}", re.DOTALL)
_PROBE = b"GET /probe HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n"
_WARM = b"GET /warm HTTP/1.1\r\nHost: api.test\r\n\r\n"
_MARKER = b"GET /marker?%d HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n"
_OURS = re.compile(rb"/(?:warm|probe|marker\?[0-9]+)")
SPLIT_AT_MOST = 4_000  # bytes that are sent one at a time
_numbers = count(1)


@dataclass
class Result:
    """The result of one play of a vector."""

    responses: list[Message]
    rest: bytes  # after the last complete response
    closed: bool  # the sidecar closed without a request to close
    in_step: bool  # another request on the same connection got its own response
    requests: list[Message]  # complete requests at the upstream
    unfinished: list[bytes]
    violations: list[str]
    marker: Message | None  # the response to the next client
    marker_target: bytes
    own_targets: list[bytes] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def status(self) -> int | None:
        """The status of the first final response; None without a response."""
        return self.responses[0].status if self.responses else None


def expand(text: str) -> bytes:
    """The bytes of a corpus string."""
    return _REPEAT.sub(lambda found: found[1] * int(found[2]), text).encode("latin-1")


def whole(vector: Vector) -> list[bytes]:
    """The pieces of the vector; one piece by default."""
    if "send" in vector:
        return [expand(part["data"]) for part in vector["send"]]
    return [expand(vector["raw"])]


def byte_by_byte(vector: Vector) -> list[bytes]:
    """Pieces of one byte; for the largest vectors, uneven pieces."""
    data = expand(vector["raw"])
    step = 1 if len(data) <= SPLIT_AT_MOST else 1009
    return [data[at : at + step] for at in range(0, len(data), step)]


def _may_go_on(vector: Vector, response: Message) -> bool:
    """Whether the connection is open for the probe, and not closed by a refusal."""
    if vector.get("then") == "half-close":
        return False
    return response.status < 400 or not (vector.get("close") or "then" in vector)


def play(
    sidecar: SidecarThread, vector: Vector, cut: Callable[[Vector], list[bytes]], *, warm: bool
) -> Result:
    """Send a vector, then probe the same connection and another client's connection."""
    sidecar.recorder.forget()
    sidecar.new_events()
    raw = expand(vector["raw"])
    method = b"HEAD" if raw.startswith(b"HEAD ") else b"GET"
    responses: list[Message] = []
    probed = False
    with client(sidecar) as connection:
        if warm:
            connection.send(_WARM)
            warmed = connection.response()
            assert warmed is not None
            assert warmed.body == b"seen /warm"
        connection.send(*cut(vector))
        if vector.get("then") == "half-close":
            connection.half_close()
        while (response := connection.response(b"GET" if responses else method)) is not None:
            responses.append(response)
            if not probed and _may_go_on(vector, response):
                connection.send(_PROBE)
                probed = True
        rest = connection.received
    in_step = bool(responses) and responses[-1].body == b"seen /probe"
    if in_step:
        responses.pop()
    number = next(_numbers)
    with client(sidecar) as other:
        other.send(_MARKER % number)
        marker = other.response()
    sidecar.wait_empty()
    sidecar.settle()
    record = sidecar.recorder
    messages = [message for _, message in record.requests]
    return Result(
        responses=responses,
        rest=rest,
        closed=not in_step,
        in_step=in_step,
        requests=[message for message in messages if not _OURS.fullmatch(message.target)],
        unfinished=list(record.unfinished),
        violations=list(record.violations),
        marker=marker,
        marker_target=b"/marker?%d" % number,
        own_targets=[m.target for m in messages if _OURS.fullmatch(m.target)],
        events=[event for event in sidecar.new_events() if event["type"] == "api.request.v1"],
    )
