"""HTTP/1.1 as the decide port speaks it. No I/O."""

from typing import Final, NamedTuple

from quota_sidecar.contract import NoDecision
from quota_sidecar.options import Options

MAX_HEAD: Final = 65_536
MAX_BODY: Final = 1 << 20
END: Final = b"\r\n\r\n"


class Head(NamedTuple):
    """The head of an answer. `keeps`: the connection serves another request."""

    status: int
    length: int
    keeps: bool


def message(options: Options, path: str, document: bytes) -> bytes:
    """A whole request."""
    token = f"X-Decide-Token: {options.token}\r\n" if options.token else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: sidecar\r\nContent-Type: application/json\r\n{token}"
        f"Content-Length: {len(document)}\r\n\r\n"
    )
    return head.encode() + document


def parse_head(data: bytes) -> Head:
    """Parse the head of an answer, with the empty line. Raises NoDecision."""
    lines = data.decode("latin-1").split("\r\n")
    version, _, rest = lines[0].partition(" ")
    length, keeps = "", True
    for line in lines[1:]:
        name, _, value = line.partition(":")
        if name.lower() == "content-length":
            length = value.strip()
        elif name.lower() == "connection":
            keeps = value.strip().lower() != "close"
    if version != "HTTP/1.1" or not rest[:3].isdecimal() or not length.isdecimal():
        raise NoDecision("not an HTTP/1.1 answer with a length")
    if int(length) > MAX_BODY:
        raise NoDecision("the answer is too long")
    return Head(int(rest[:3]), int(length), keeps)
