"""The rest of a response that the event loop does not read any more."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Final

READ: Final = 65_536


def unread(transport: asyncio.Transport | None) -> Iterator[bytes]:
    """What is left in the socket of a connection whose last write failed.

    An API can refuse a body unread and close. The next write then fails, and the event loop
    reads no more, but the response is still in the socket (RFC 9112, section 9.6).
    """
    if transport is None or transport.get_extra_info("sslcontext") is not None:
        return
    with contextlib.suppress(OSError):
        descriptor = os.dup(transport.get_extra_info("socket").fileno())
        with socket.socket(fileno=descriptor) as rest:
            while data := rest.recv(READ):
                yield data
