"""How much of what was written to a client the client has not taken yet."""

import asyncio
import contextlib
import fcntl
import struct
import termios


def unread(transport: asyncio.Transport) -> int:
    """Bytes in our buffer and in the kernel's, until the client's kernel has taken them.

    Our buffer alone would not do: the kernel takes megabytes, and then says nothing for as
    long as a slow client needs for a third of them (tcp(7), SIOCOUTQ, which is TIOCOUTQ).
    """
    waiting = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):  # closed in the meantime
            waiting += struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
    return waiting
