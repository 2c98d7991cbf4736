"""Addresses to listen on or connect to: TCP addresses and unix sockets."""

from typing import Final, NamedTuple

# sun_path has 108 bytes with its final NUL (unix(7)). A socket is created under a slightly longer
# name and then renamed.
MAX_SOCKET_PATH: Final = 100


class Address(NamedTuple):
    """A TCP address. Port 0 means any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class UnixPath(NamedTuple):
    """The file of a unix socket: an absolute path of at most MAX_SOCKET_PATH bytes."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


class Origin(NamedTuple):
    """The address of an API. For a unix socket, it has a `path` and an empty host."""

    scheme: str  # http, https or unix
    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"{self.scheme}://{self.address}"

    @property
    def address(self) -> Address:
        """Host and port."""
        return Address(self.host, self.port)


Endpoint = Address | UnixPath
