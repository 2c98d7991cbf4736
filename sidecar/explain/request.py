"""What is explained: a request, and the settings that decide about it."""

from dataclasses import dataclass, field

from sidecar.core.paths import Normaliser, normalise
from sidecar.ports import Trace


@dataclass
class ExplainedRequest:
    """The request to explain. Implements `gate.InboundRequest`."""

    method: str
    target: bytes
    api_keys: list[bytes] = field(default_factory=list)
    authorizations: list[bytes] = field(default_factory=list)
    address: str = "127.0.0.1"
    waiting: bool = False
    size: int = 0
    patience_us: int | None = None
    trace: Trace | None = None
    traceparents: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class ExplainOptions:
    """Settings of `serve` that decide, too. `jobs`: whether requests are deferred at all."""

    paths: Normaliser = normalise
    ignore_case: bool = False
    reserved_prefix: str = "/-/"
    jobs: bool = True
