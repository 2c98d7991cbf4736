"""A decoder for a Content-Encoding, whose work is bounded by the size of its input."""

from collections.abc import Callable, Iterator
from typing import Final

from sidecar.bodies.coding import Brotli, Coding, Deflate, UnreadableBody, Zstd, gzip
from sidecar.core.costs import Unreadable

MAX_CODINGS: Final = 3  # applied one after the other
# The output is limited by a bucket of bytes: a bomb empties it, a long stream never does.
BUCKET: Final = 2 << 20  # its size, and its level at the start
RATIO: Final = 64  # bytes added per byte of input, by default
SLICE: Final = 16_384  # bytes of input per step: zlib copies unused input in each step

_CODINGS: Final[dict[bytes, Callable[[], Coding]]] = {
    b"gzip": gzip,
    b"x-gzip": gzip,
    b"deflate": Deflate,
    b"br": Brotli,
    b"zstd": Zstd,
}


class Decoder:
    """Undoes codings, the last applied one first (RFC 9110, section 8.4).

    `ratio`: bytes of output per byte of input, beyond the first BUCKET bytes, or what SLICE bytes
    may decode to if that is more.
    """

    def __init__(self, codings: list[Coding], ratio: int) -> None:
        self._codings = codings
        self._ratio = ratio
        self._bucket = self._left = max(BUCKET, SLICE * ratio)

    @property
    def finished(self) -> bool:
        """Whether every coding may end after the input so far."""
        return all(coding.finished for coding in self._codings)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decode `data` into pieces. Raises UnreadableBody."""
        for start in range(0, len(data), SLICE):
            part = data[start : start + SLICE]
            self._left = min(self._left + len(part) * self._ratio, self._bucket)
            yield from self._through(part, 0)

    def _through(self, data: bytes, at: int) -> Iterator[bytes]:
        for piece in self._codings[at].decode(data):
            self._left -= len(piece)
            if self._left < 0:
                raise UnreadableBody(Unreadable.TOO_LARGE)
            if at + 1 < len(self._codings):
                yield from self._through(piece, at + 1)
            else:
                yield piece


def decoder_for(content_encoding: bytes, ratio: int = RATIO) -> Decoder | None:
    """The decoder for a Content-Encoding; None if the body is not encoded.

    `content_encoding` is the field's value; values of repeated fields are joined by commas.
    Raises UnreadableBody for an unknown coding and for more than three.
    """
    if not content_encoding:
        return None
    names = [name.strip().lower() for name in content_encoding.split(b",")]
    applied = [name for name in names if name not in (b"", b"identity")]
    if not applied:
        return None
    if len(applied) > MAX_CODINGS or any(name not in _CODINGS for name in applied):
        raise UnreadableBody(Unreadable.UNDECODABLE)
    return Decoder([_CODINGS[name]() for name in reversed(applied)], ratio)
