"""The bounds of the data path, as plain numbers: each wait a timeout, each buffer a size."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """Sizes in bytes, spans in seconds. `max_body` of 0 means that bodies may be of any size."""

    max_target: int = 8_192
    max_header: int = 32_768
    max_fields: int = 100
    max_body: int = 0
    max_pipelined: int = 64
    max_connections: int = 10_000
    header_timeout: float = 10.0
    idle_timeout: float = 75.0
    body_timeout: float = 30.0
    connect_timeout: float = 3.0
    response_timeout: float = 60.0
    upstream_connections: int = 256
    upstream_idle: float = 30.0
