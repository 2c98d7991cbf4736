"""Options of the middleware."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Final

SOCKET: Final = "unix:/run/sidecar/decide.sock"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where the sidecar is, and what happens if it does not answer. Raises ValueError."""

    address: str = SOCKET  # unix:PATH, or HOST:PORT
    token: str = field(default="", repr=False)  # sent as X-Decide-Token
    ssl: SSLContext | None = field(default=None, repr=False)  # for HOST:PORT with TLS
    timeout_s: float = 1.0  # for an answer, in addition to wait_ms
    wait_ms: int = 0  # longest wait for a limit with max_wait
    pool: int = 64  # connections at a time, per process
    idle_s: float = 30.0  # an idle connection is kept; below the sidecar's --idle-timeout-s
    open: bool = False  # forward requests if the sidecar does not answer
    critical: Sequence[str] = ()  # paths that are forwarded then; a final * matches any end
    read_body: int = 65_536  # bytes of a request's body that are sent for costs in it; 0: none
    keep_body: int = 262_144  # bytes of a response's body that are sent for costs in it; 0: none
    queue: int = 10_000  # reports that wait to be sent
    attempts: int = 3  # to send a report

    def __post_init__(self) -> None:
        if isinstance(self.critical, str) or not all(one[:1] == "/" for one in self.critical):
            raise ValueError('critical: must be a list of paths, like ["/v1/login"]')
        if not self.address.startswith("unix:/"):
            self._check_host()
        elif self.ssl is not None:
            raise ValueError("ssl: a unix socket has no TLS; use HOST:PORT as address")
        if not self.token.isascii() or not (self.token + "x").isprintable() or " " in self.token:
            raise ValueError("token: must be printable ASCII without spaces")
        for name, least, most in (
            ("timeout_s", 0.001, 3600), ("wait_ms", 0, 3_600_000), ("pool", 1, 10_000),
            ("idle_s", 0, 3600), ("read_body", 0, 1 << 24), ("keep_body", 0, 1 << 24),
            ("queue", 1, 10_000_000), ("attempts", 1, 3),
        ):  # fmt: skip
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name}: must be from {least} to {most}")

    def _check_host(self) -> None:
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
            raise ValueError(f'address: "{self.address}" is not unix:/PATH or HOST:PORT')

    @property
    def path(self) -> str:
        """Path of the unix socket; empty for HOST:PORT."""
        return self.address[5:] if self.address.startswith("unix:") else ""

    @property
    def host_port(self) -> tuple[str, int]:
        host, _, port = self.address.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def decide_timeout_s(self) -> float:
        """Seconds until the sidecar counts as unavailable."""
        return self.timeout_s + self.wait_ms / 1000

    def is_open(self, path: str) -> bool:
        """Whether a request with this decoded path is forwarded without a decision."""
        if self.open:
            return True
        if "/../" in f"{path}/":  # the application may read it as another path
            return False
        return any(
            path.startswith(one[:-1]) if one.endswith("*") else path == one for one in self.critical
        )
