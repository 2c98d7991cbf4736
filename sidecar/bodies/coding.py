"""Incremental decoders for single content codings. Their output comes in small pieces.

RFC 9110, section 8.4.1 (gzip, x-gzip, deflate), RFC 7932 (br), RFC 8878 and 9659 (zstd).
The first body that needs brotli or zstandard imports it: most processes never do.
"""

import zlib
from collections.abc import Iterator
from typing import Final, Protocol

from sidecar.core.costs import Unreadable

PIECE: Final = 65_536  # bytes of output per step, about; for zstd, see `Zstd`
MEMBERS: Final = 256  # gzip members or zstd frames in one body
ZSTD_WINDOW: Final = 8 << 20  # the largest for a content coding (RFC 9659, section 3)
ZSTD_SLICE: Final = 256


class UnreadableBody(Exception):
    """A body cannot be read. The exception never leaves `BodyReader`."""

    def __init__(self, cause: Unreadable) -> None:
        self.cause = cause


class Coding(Protocol):
    """A decoder of one stream. `finished`: the stream may end after the input so far."""

    @property
    def finished(self) -> bool: ...

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Decode `data` into bounded pieces. Raises UnreadableBody."""
        ...


def gzip() -> Coding:
    """A decoder for gzip (RFC 1952), with one member or several in a row."""
    return _Zlib(16 + zlib.MAX_WBITS, MEMBERS)


class _Zlib:
    def __init__(self, wbits: int, members: int) -> None:
        self._wbits = wbits
        self._members = members
        self._stream = zlib.decompressobj(wbits)
        self.finished = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self.finished:
                self._next_member()
            try:
                yield from self._member(data)
            except zlib.error:
                raise UnreadableBody(Unreadable.UNDECODABLE) from None
            self.finished = self._stream.eof
            data = self._stream.unused_data

    def _member(self, data: bytes) -> Iterator[bytes]:
        piece = self._stream.decompress(data, PIECE)
        while piece:
            yield piece
            if len(piece) < PIECE:
                break
            piece = self._stream.decompress(self._stream.unconsumed_tail, PIECE)

    def _next_member(self) -> None:
        self._members -= 1
        if self._members < 1:
            raise UnreadableBody(Unreadable.UNDECODABLE)
        self._stream = zlib.decompressobj(self._wbits)
        self.finished = False


class Deflate:
    """deflate: zlib's format (RFC 1950), or the raw stream that some servers send instead."""

    def __init__(self) -> None:
        self._head = b""
        self._stream: _Zlib | None = None

    @property
    def finished(self) -> bool:
        return self._stream is not None and self._stream.finished

    def decode(self, data: bytes) -> Iterator[bytes]:
        if self._stream is None:
            self._head += data
            if len(self._head) < 2:
                return
            data, self._head = self._head, b""
            self._stream = _Zlib(zlib.MAX_WBITS if _is_zlib(data) else -zlib.MAX_WBITS, 1)
        yield from self._stream.decode(data)


def _is_zlib(data: bytes) -> bool:
    """Whether the first two bytes are zlib's header (RFC 1950, section 2.2)."""
    return data[0] & 0x0F == 8 and data[0] >> 4 <= 7 and (data[0] << 8 | data[1]) % 31 == 0


class Brotli:
    """br: one stream, with no bytes after it."""

    def __init__(self) -> None:
        import brotli

        self._stream = brotli.Decompressor()
        self._error = brotli.error
        self.finished = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        if self.finished:
            raise UnreadableBody(Unreadable.UNDECODABLE)
        while not self.finished:
            try:
                piece = self._stream.process(data, output_buffer_limit=PIECE)
            except self._error:
                raise UnreadableBody(Unreadable.UNDECODABLE) from None
            self.finished = self._stream.is_finished()
            if not piece:
                break  # all input is used, and all output is read
            yield piece
            data = b""


class Zstd:
    """zstd: frames in a row, also skippable ones, with windows of at most 8 MB.

    The library has no limit for its output, but four bytes of input make at most one block of
    128 KB. So 256 bytes at a time keep the output of a step below 8 MB, even for a hostile body.
    """

    def __init__(self) -> None:
        import zstandard

        self._context = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
        self._error = zstandard.ZstdError
        self._stream = self._context.decompressobj(write_size=PIECE)
        self._frames = MEMBERS
        self.finished = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), ZSTD_SLICE):
            rest = data[start : start + ZSTD_SLICE]
            while rest:
                if self.finished:
                    self._next_frame()
                try:
                    piece = self._stream.decompress(rest)
                except self._error:
                    raise UnreadableBody(Unreadable.UNDECODABLE) from None
                self.finished = self._stream.eof
                rest = self._stream.unused_data if self.finished else b""
                if piece:
                    yield piece

    def _next_frame(self) -> None:
        self._frames -= 1
        if self._frames < 1:
            raise UnreadableBody(Unreadable.UNDECODABLE)
        self._stream = self._context.decompressobj(write_size=PIECE)
        self.finished = False
