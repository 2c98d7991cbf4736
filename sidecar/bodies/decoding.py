"""Content-Encoding → a decoder whose work is bounded by the bytes that it was fed."""

from collections.abc import Callable, Iterator
from typing import Final

from sidecar.bodies.coding import Brotli, Coding, Deflate, Unread, Zstd, gzip
from sidecar.core.costs import Unreadable

MOST_CODINGS: Final = 3  # one upon the other
# What decoding may give out is a bucket of bytes: a bomb empties it, a long stream never does.
BUCKET: Final = 2 << 20  # in it at the start, and the most that it holds
RATIO: Final = 64  # put in for each byte that comes
SLICE: Final = 16_384  # bytes of input per step: what zlib has not used yet is copied each time

_CODINGS: Final[dict[bytes, Callable[[], Coding]]] = {
    b"gzip": gzip,
    b"x-gzip": gzip,
    b"deflate": Deflate,
    b"br": Brotli,
    b"zstd": Zstd,
}


class Decoder:
    """Undoes codings in the reverse order of their application (RFC 9110, section 8.4)."""

    def __init__(self, codings: list[Coding]) -> None:
        self._codings = codings
        self._left = BUCKET

    @property
    def finished(self) -> bool:
        """Whether every coding ended properly with the bytes that came so far."""
        return all(coding.finished for coding in self._codings)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` decodes to, in pieces. Raises Unread."""
        for start in range(0, len(data), SLICE):
            part = data[start : start + SLICE]
            self._left = min(self._left + len(part) * RATIO, BUCKET)
            yield from self._through(part, 0)

    def _through(self, data: bytes, at: int) -> Iterator[bytes]:
        for piece in self._codings[at].decode(data):
            self._left -= len(piece)
            if self._left < 0:
                raise Unread(Unreadable.TOO_LARGE)
            if at + 1 < len(self._codings):
                yield from self._through(piece, at + 1)
            else:
                yield piece


def decoder_for(content_encoding: bytes) -> Decoder | None:
    """The decoder for a Content-Encoding; None when nothing is encoded.

    `content_encoding` is the field's value; values of repeated fields are joined by commas.
    Raises Unread for an unknown coding and for more than three.
    """
    if not content_encoding:
        return None
    names = [name.strip().lower() for name in content_encoding.split(b",")]
    applied = [name for name in names if name not in (b"", b"identity")]
    if not applied:
        return None
    if len(applied) > MOST_CODINGS or any(name not in _CODINGS for name in applied):
        raise Unread(Unreadable.UNDECODABLE)
    return Decoder([_CODINGS[name]() for name in reversed(applied)])
