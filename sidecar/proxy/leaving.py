"""Whether a client has left that we do not read from: nobody else would notice."""

import asyncio
import contextlib
import select
from typing import Final

GONE: Final = select.POLLRDHUP | select.POLLHUP | select.POLLERR


def has_left(transport: asyncio.Transport) -> bool:
    """Whether the client has closed its side, or the connection is broken."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        return False
    look = select.poll()
    with contextlib.suppress(OSError):  # closed in the meantime
        look.register(sock.fileno(), select.POLLRDHUP)
        return any(events & GONE for _, events in look.poll(0))
    return True
