"""The bounds of the data path, as plain numbers: each wait a timeout, each buffer a size."""

from dataclasses import dataclass
from typing import Final

FRAMING: Final = 8_192  # bytes of chunk extensions and trailers that a message may carry
CHUNK: Final = 64  # and so many more for each chunk


@dataclass(frozen=True, slots=True)
class Bounds:
    """Sizes in bytes, spans in seconds. `max_body` of 0 means that bodies may be of any size,
    `total_timeout` of 0 that an exchange may take as long as both sides go on."""

    max_target: int = 8_192
    max_header: int = 32_768
    max_fields: int = 100
    max_body: int = 0
    max_pipelined: int = 64
    max_connections: int = 10_000
    header_timeout: float = 10.0
    idle_timeout: float = 75.0
    body_timeout: float = 30.0
    min_rate: int = 256  # bytes a second that a body has to reach on average
    half_close_timeout: float = 5.0
    stall_timeout: float = 2.0  # of a client whose upstream connection others need
    connect_timeout: float = 3.0
    response_timeout: float = 60.0  # until the head has come
    stream_timeout: float = 60.0  # between two pieces of a response
    total_timeout: float = 0.0
    upstream_connections: int = 256
    critical_connections: int = 16  # of those, for critical calls only
    upstream_idle: float = 30.0
    tunnel_idle: float = 300.0
    tunnel_lifetime: float = 86_400.0
    tunnel_check: float = 5.0  # how often it is asked whether there is quota left
    max_unread: int = 65_536  # of a refused body that is read to keep the connection
    linger: float = 2.0
