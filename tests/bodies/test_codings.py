"""All content codings with any split of their bytes; errors and bombs are part of the reading."""

import gzip
import subprocess
import sys
import tracemalloc
import zlib
from itertools import pairwise

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.bodies.coding import MEMBERS
from sidecar.core.costs import Unreadable
from tests.support.codings import COMPRESSED, ENCODERS, SSE, a_reader, bytewise, raw_deflate, read

BODY = b'{"id": "chat-1", "usage": {"total_tokens": 350}, "text": "' + b"caf\xc3\xa9 " * 60 + b'"}'
MB = 1 << 20


@pytest.mark.parametrize("name", ENCODERS)
def test_the_value_is_read_through_every_coding(name: str) -> None:
    coding, encode = ENCODERS[name]
    assert read([encode(BODY)], coding=coding).values == {"tokens": 350}


@pytest.mark.parametrize("name", ENCODERS)
def test_a_split_between_any_two_bytes_changes_nothing(name: str) -> None:
    coding, encode = ENCODERS[name]
    encoded = encode(BODY)
    assert read(bytewise(encoded), coding=coding).values == {"tokens": 350}
    for at in range(len(encoded) + 1):
        assert read([encoded[:at], b"", encoded[at:]], coding=coding).values == {"tokens": 350}


@pytest.mark.parametrize("name", ENCODERS)
def test_a_large_body_is_read_whole(name: str) -> None:
    coding, encode = ENCODERS[name]
    body = b'{"pad": "' + b"x" * 900_000 + b'", "usage": {"total_tokens": 7}}'
    assert read([encode(body)], coding=coding).values == {"tokens": 7}


@pytest.mark.parametrize("value", [b"GZIP", b" gzip ", b"identity, gzip", b",gzip,"])
def test_the_content_encoding_is_parsed_as_http_defines(value: bytes) -> None:
    assert read([gzip.compress(BODY, mtime=0)], coding=value).values == {"tokens": 350}


@pytest.mark.parametrize("first", COMPRESSED)
@pytest.mark.parametrize("second", COMPRESSED)
def test_several_codings_are_undone_in_reverse(first: str, second: str) -> None:
    (one, encode_one), (two, encode_two) = ENCODERS[first], ENCODERS[second]
    encoded = encode_two(encode_one(BODY))
    assert read(bytewise(encoded), coding=one + b", " + two).values == {"tokens": 350}


def test_three_codings_are_undone_and_four_are_not() -> None:
    encoded = zlib.compress(brotli.compress(gzip.compress(BODY, mtime=0)))
    assert read([encoded], coding=b"gzip, br, deflate").values == {"tokens": 350}
    encoded = gzip.compress(encoded, mtime=0)
    reading = read([encoded], coding=b"gzip, br, deflate, gzip")
    assert reading.unreadable == {"tokens": Unreadable.UNDECODABLE}


@pytest.mark.parametrize(
    "coding", [b"compress", b"gzip2", b"aes128gcm", b"gzip;q=1", b"\xff", b"dcb"]
)
def test_an_unknown_coding_is_undecodable_and_no_bytes_are_wanted(coding: bytes) -> None:
    reader = a_reader(coding=coding)
    assert not reader.wanted
    reader.feed(BODY)
    assert reader.finish().unreadable == {"tokens": Unreadable.UNDECODABLE}


@pytest.mark.parametrize("name", COMPRESSED)
def test_an_encoded_body_that_ends_early_is_truncated(name: str) -> None:
    coding, encode = ENCODERS[name]
    encoded = encode(BODY)
    for end in range(1, len(encoded)):
        reading = read([encoded[:end]], coding=coding)
        # The value counts if it has passed.
        truncated = {} if reading.values == {"tokens": 350} else {"tokens": Unreadable.TRUNCATED}
        assert reading.unreadable == truncated, end


@pytest.mark.parametrize("name", [*COMPRESSED, "identity"])
def test_an_empty_body_is_not_json(name: str) -> None:
    assert read([b""], coding=ENCODERS[name][0]).unreadable == {"tokens": Unreadable.NOT_JSON}


@pytest.mark.parametrize("name", COMPRESSED)
def test_bytes_after_the_end_are_undecodable_at_any_split(name: str) -> None:
    coding, encode = ENCODERS[name]
    encoded = encode(BODY) + b"\x00garbage"
    for parts in ([encoded], bytewise(encoded), [encoded[:-8], encoded[-8:]]):
        assert read(parts, coding=coding).unreadable == {"tokens": Unreadable.UNDECODABLE}


@pytest.mark.parametrize("name", ["gzip", "br", "zstd", "deflate"])
def test_a_body_in_another_coding_is_undecodable(name: str) -> None:
    reader = a_reader(coding=ENCODERS[name][0])
    reader.feed(b"\xff\xff" + BODY)
    assert not reader.wanted
    assert reader.finish().unreadable == {"tokens": Unreadable.UNDECODABLE}


@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_a_wrong_checksum_is_undecodable(name: str) -> None:
    coding, encode = ENCODERS[name]
    encoded = bytearray(encode(BODY))
    encoded[-5 if name == "gzip" else -1] ^= 1
    assert read([bytes(encoded)], coding=coding).unreadable == {"tokens": Unreadable.UNDECODABLE}


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_members_in_a_row_are_one_body_up_to_a_limit(name: str) -> None:
    coding, encode = ENCODERS[name]
    parts = [encode(BODY[at : at + 4]) for at in range(0, len(BODY), 4)]
    assert len(parts) < MEMBERS
    assert read(parts, coding=coding).values == {"tokens": 350}
    assert read([b"".join(parts)], coding=coding).values == {"tokens": 350}
    most = encode(BODY) + encode(b"") * (MEMBERS - 1)
    assert read([most], coding=coding).values == {"tokens": 350}
    more = read([most, encode(b"")], coding=coding)
    assert more.unreadable == {"tokens": Unreadable.UNDECODABLE}


def test_skippable_frames_of_zstd_are_skipped() -> None:
    skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
    encoded = skippable + zstandard.compress(BODY) + skippable
    assert read(bytewise(encoded), coding=b"zstd").values == {"tokens": 350}


def test_zstd_with_a_window_above_the_limit_is_undecodable() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=24)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    encoded = stream.compress(BODY) + stream.flush()
    reading = read([encoded], coding=b"zstd")
    assert reading.unreadable == {"tokens": Unreadable.UNDECODABLE}


def zeros(coding: str, megabytes: int) -> bytes:
    """An encoded body of NUL bytes, made without the decoded bytes in memory."""
    chunk = bytes(MB)
    if coding == "br":
        compressor = brotli.Compressor(quality=5)
        parts = [compressor.process(chunk) for _ in range(megabytes)]
        return b"".join([*parts, compressor.finish()])
    stream = (
        zstandard.ZstdCompressor().compressobj()
        if coding == "zstd"
        else zlib.compressobj(wbits=31 if coding == "gzip" else 15)
    )
    parts = [stream.compress(chunk) for _ in range(megabytes)]
    return b"".join([*parts, stream.flush()])


@pytest.mark.parametrize("kind", [b"application/json", SSE])
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_I9_a_bomb_is_stopped_with_little_memory(coding: str, kind: bytes) -> None:
    bomb = zeros(coding, 100)
    reader = a_reader(kind, coding.encode())
    tracemalloc.start()
    try:
        reader.feed(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not reader.wanted
    why = reader.finish().unreadable["tokens"]
    assert why is Unreadable.TOO_LARGE or (kind != SSE and why is Unreadable.NOT_JSON)
    assert peak < 24 * MB


def test_I9_a_bomb_within_several_codings_is_stopped() -> None:
    bomb = gzip.compress(brotli.compress(zeros("zstd", 100)))
    reading = read(bytewise(bomb), SSE, b"zstd, br, gzip")
    assert reading.unreadable == {"tokens": Unreadable.TOO_LARGE}


def test_I9_a_bomb_after_a_long_valid_stream_is_stopped() -> None:
    stream = zlib.compressobj(level=0, wbits=31)
    honest = [stream.compress(b": keep-alive\n\n" * 8_000) for _ in range(100)]
    reader = a_reader(SSE, b"gzip")
    for part in honest:
        reader.feed(part)
    assert reader.wanted
    reader.feed(stream.flush(zlib.Z_FULL_FLUSH))
    reader.feed(raw_deflate(b"\n" * 40 * MB))
    assert reader.finish().unreadable == {"tokens": Unreadable.TOO_LARGE}


def test_a_long_compressed_stream_may_decode_to_any_size() -> None:
    stream = zlib.compressobj(wbits=31)
    reader = a_reader(SSE, b"gzip")
    for number in range(8_000):
        chunk = b'data: {"id": "chat-%d", "delta": "%s"}\n\n' % (number, b"lorem ipsum " * 160)
        reader.feed(stream.compress(chunk) + stream.flush(zlib.Z_SYNC_FLUSH))
    reader.feed(stream.compress(b'data: {"usage": {"total_tokens": 9}}\n\n') + stream.flush())
    assert reader.finish().values == {"tokens": 9}


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(COMPRESSED),
    st.binary(max_size=300),
    st.lists(st.integers(0, 400), max_size=6),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=3),
)
def test_every_split_of_any_bytes_gives_the_same_reading(
    name: str, junk: bytes, cuts: list[int], damage: list[tuple[int, int]]
) -> None:
    coding, encode = ENCODERS[name]
    encoded = bytearray(encode(BODY + junk))
    for at, value in damage:
        encoded[at % len(encoded)] = value
    whole = read([bytes(encoded)], coding=coding)
    edges = [0, *sorted(at % (len(encoded) + 1) for at in cuts), len(encoded)]
    parts = [bytes(encoded[a:b]) for a, b in pairwise(edges)]
    assert read(parts, coding=coding) == whole
    assert read(bytewise(bytes(encoded)), coding=coding) == whole


def test_codecs_are_imported_with_the_first_body_that_needs_them() -> None:
    script = (
        "import sys, sidecar.bodies as b; from sidecar.core.json_path import JsonPath\n"
        "paths = [('t', JsonPath.parse('a'))]\n"
        "loaded = lambda: [name for name in ('brotli', 'zstandard') if name in sys.modules]\n"
        "b.reader_for(b'application/json', b'gzip', paths); print(loaded())\n"
        "b.reader_for(b'application/json', b'br', paths); print(loaded())\n"
        "b.reader_for(b'application/json', b'zstd', paths); print(loaded())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.splitlines() == ["[]", "['brotli']", "['brotli', 'zstandard']"]
