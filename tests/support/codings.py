"""Encoders of the real libraries, by their name in Content-Encoding."""

import gzip
import zlib
from collections.abc import Callable, Iterable

import brotli
import zstandard

from sidecar.bodies import BodyReader, reader_for
from sidecar.core.json_path import JsonPath
from sidecar.core.readings import Reading

JSON = b"application/json"
SSE = b"text/event-stream"
TOKENS = (("tokens", JsonPath.parse("usage.total_tokens")),)


def raw_deflate(data: bytes) -> bytes:
    """A deflate stream without zlib's header, as some servers send it."""
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


ENCODERS: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "identity": (b"identity", bytes),
    "none": (b"", bytes),
    "gzip": (b"gzip", gzip.compress),
    "x-gzip": (b"x-gzip", gzip.compress),
    "deflate": (b"deflate", zlib.compress),
    "raw deflate": (b"deflate", raw_deflate),
    "br": (b"br", brotli.compress),
    "zstd": (b"zstd", zstandard.compress),
}
COMPRESSED = [name for name in ENCODERS if name not in ("identity", "none")]


def a_reader(
    kind: bytes = JSON, coding: bytes = b"", paths: tuple[tuple[str, JsonPath], ...] = TOKENS
) -> BodyReader:
    reader = reader_for(kind, coding, paths)
    assert reader is not None
    return reader


def read(
    parts: Iterable[bytes],
    kind: bytes = JSON,
    coding: bytes = b"",
    paths: tuple[tuple[str, JsonPath], ...] = TOKENS,
    *,
    complete: bool = True,
) -> Reading:
    """The reading of a body that arrives in these parts."""
    reader = a_reader(kind, coding, paths)
    for part in parts:
        reader.feed(part)
    return reader.finish(complete=complete)


def bytewise(body: bytes) -> list[bytes]:
    return [body[at : at + 1] for at in range(len(body))]
