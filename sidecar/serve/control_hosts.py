"""The Host of requests to the control port, which has no credentials.

A web page can let a name of its own resolve to a private address (DNS rebinding) and then read the
answers of whatever listens there. Its requests carry that name in Host. So the control port answers
to IP addresses, to the names of this machine and to configured names, and to no others.
"""

import re
import socket
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final

ANY: Final = "*"
_HOST: Final = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::[0-9]{0,5})?")


class ControlHosts:
    """The names that the control port answers to: `names`, "localhost" and this machine's own."""

    def __init__(self, names: Iterable[str]) -> None:
        own = (socket.gethostname(), "localhost")
        self._names = frozenset(_plain(name) for name in (*names, *own) if name)

    def allow(self, host: str | None) -> bool:
        """Whether to answer a request with this Host; None: without one, as in HTTP/1.0."""
        if host is None or ANY in self._names:
            return True
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1]
        if name.startswith("["):
            return _is_address(name[1:-1])
        return _is_address(name) or _plain(name) in self._names


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
