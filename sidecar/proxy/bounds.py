"""The bounds of the data path: each wait has a timeout, each buffer a size."""

from dataclasses import dataclass
from typing import Final

FRAMING: Final = 8_192  # bytes of chunk extensions and trailers in one message
LINE: Final = 160  # about: memory of a header line, in addition to its bytes
CHUNK: Final = 64  # further bytes for each chunk
FREE_CHUNKS: Final = 2_048  # chunks of one body that may have any size
MEAN_CHUNK: Final = 8  # bytes per further chunk, on average
CHUNKS_PER_S: Final = 128  # chunks of any size that each second of a body adds


@dataclass(frozen=True, slots=True)
class Bounds:
    """Sizes are in bytes, times in seconds. 0 means no limit for `max_body` and `total_timeout`."""

    max_target: int = 8_192
    max_header: int = 32_768
    max_fields: int = 100
    max_response_header: int = 65_536
    max_body: int = 0
    expect_timeout: float = 10.0  # until a client that expects 100 (Continue) gets it anyway
    max_pipelined: int = 64
    max_connections: int = 10_000
    pending_heads: int = 16 << 20  # estimated memory of all unfinished heads together
    pending_heads_per_address: int = 1 << 20
    header_timeout: float = 10.0
    idle_timeout: float = 75.0
    body_timeout: float = 30.0
    min_rate: int = 256  # bytes per second: the lowest average rate of a body
    half_close_timeout: float = 0.0  # 0: a client that closes its sending side is gone
    stall_timeout: float = 2.0  # of a client whose upstream connection other requests need
    connect_timeout: float = 3.0
    response_timeout: float = 60.0  # until the head is complete
    stream_timeout: float = 60.0  # between two pieces of a response
    total_timeout: float = 0.0
    usage_timeout: float = 60.0  # to learn the cost of a response whose client left; 0: never
    usage_bytes: int = 16 << 20  # of such a response that are read
    usage_percent: int = 25  # of the upstream connections, for such responses
    decompression_ratio: int = 64  # bytes of a response that are decoded, per byte
    upstream_connections: int = 256
    critical_connections: int = 16  # of these, for critical requests only; as many tunnels
    account_percent: int = 50  # of the connections that others leave: the share of an account
    tunnels: int = 1_000  # at most open at a time
    small_body: int = 65_536  # bytes of a body that is read before it takes a connection
    small_bodies: int = 33_554_432  # bytes of all such bodies
    upstream_idle: float = 30.0
    tunnel_idle: float = 300.0
    tunnel_lifetime: float = 86_400.0
    tunnel_check: float = 5.0  # interval between checks of the remaining quota
    max_unread: int = (
        65_536  # rest of a refused body that is read, so that the connection can stay open
    )
    linger: float = 2.0  # for a client to read its last response
