"""Seeded, nearly valid requests, split at random positions."""

import re
from collections.abc import Callable
from itertools import pairwise
from random import Random

HIDDEN = b"GET /smuggled HTTP/1.1\r\nHost: api.test\r\n\r\n"
_NASTY = [b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b",", b";", b"-", b"+", b"0", b"\x0b",
          b"\x0c", b"\x7f", b"\x80", b"\xa0", b"\xff", b'"', b"\\"]  # fmt: skip
_LINES = [
    b"Content-Length: 0", b"Content-Length: 5", b"Content-Length: +5", b"Content-Length: 5, 5",
    b"Content-Length : 5", b"Content-Length: 999", b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding:", b"Transfer-Encoding\t: chunked",
    b"Transfer-Encoding: \x0bchunked", b" Transfer-Encoding: chunked", b"X: a\r\n b",
    b"Connection: close", b"Connection: Content-Length", b"Connection: Transfer-Encoding, Host",
    b"Connection: upgrade\r\nUpgrade: websocket", b"Connection: Upgrade\r\nUpgrade: h2c",
    b"Host: evil.test", b"Expect: 100-continue", b"X-Account-Id: boss", b"X_Plan: unlimited",
    b"Transfer_Encoding: chunked", b"TE: trailers", b"Max-Forwards: 1",
]  # fmt: skip
_SIZES = [b"0", b"00", b"-1", b"+1", b"0x1", b"1", b"5", b"ff", b"FFFFFFFFFFFFFFFF", b"", b" 1",
          b"1 ", b"1;a", b'1;a="', b"10000000000000000"]  # fmt: skip


def pieces(seed: int, number: int) -> list[bytes]:
    """The bytes of one case, split into segments. Deterministic."""
    random = Random(f"{seed}:{number}")
    data = b"".join(_request(random, number, k) for k in range(random.choice((1, 1, 2, 3))))
    for _ in range(random.choice((0, 1, 1, 1, 2, 3))):
        data = random.choice(_MUTATIONS)(random, data)
    cuts = sorted(random.randrange(len(data) + 1) for _ in range(random.choice((0, 0, 1, 2, 5))))
    edges = [0, *cuts, len(data)]
    found = [data[a:b] for a, b in pairwise(edges) if a < b]
    return found or [b""]


def _request(random: Random, number: int, k: int) -> bytes:
    shape = random.choice(("none", "fixed", "chunked", "chunked", "trailers"))
    method = random.choice((b"POST", b"PUT", b"GET", b"HEAD", b"DELETE", b"OPTIONS"))
    version = b"1.0" if random.random() < 0.05 else b"1.1"
    head = b"%b /f/%d/%d HTTP/%b\r\nHost: api.test\r\n" % (method, number, k, version)
    if random.random() < 0.3:
        head += random.choice((b"X-API-Key: key-A\r\n", b"Accept: */*\r\n", b"X-A: b, c\r\n"))
    if shape == "none":
        return head + b"\r\n"
    body = random.choice((b"hello", HIDDEN, b"0\r\n\r\n" + HIDDEN, b"", b"a" * 300))
    if shape == "fixed" or version == b"1.0":
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    trailer = b"X-T: 1\r\n" if shape == "trailers" else b""
    return head + _chunks(random, body) + b"0\r\n" + trailer + b"\r\n"


def _chunks(random: Random, body: bytes) -> bytes:
    out = b""
    while body:
        size = random.randint(1, len(body))
        extension = b";a=b" if random.random() < 0.1 else b""
        out += b"%x%b\r\n%b\r\n" % (size, extension, body[:size])
        body = body[size:]
    return out


def _insert(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.choice(_NASTY) + data[at:]


def _replace(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.choice((*_NASTY, bytes([random.randrange(256)]))) + data[at + 1 :]


def _delete(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + data[at + random.randint(1, 4) :]


def _repeat(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + data[max(0, at - random.randint(1, 40)) :]


def _truncate(random: Random, data: bytes) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _add_line(random: Random, data: bytes) -> bytes:
    ends = [found.end() for found in re.finditer(rb"\r\n", data)]
    if not ends:
        return data
    at = random.choice(ends)
    return data[:at] + random.choice(_LINES) + b"\r\n" + data[at:]


def _change_line_end(random: Random, data: bytes) -> bytes:
    ends = [found.start() for found in re.finditer(rb"\r\n", data)]
    if not ends:
        return data
    at = random.choice(ends)
    end = random.choice((b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n\r\n", b""))
    return data[:at] + end + data[at + 2 :]


def _change_number(random: Random, data: bytes) -> bytes:
    found = list(re.finditer(rb"(?<=Content-Length: )[0-9]+|(?<=\r\n)[0-9a-f]+(?=[;\r])", data))
    if not found:
        return data
    place = random.choice(found)
    return data[: place.start()] + random.choice(_SIZES) + data[place.end() :]


_MUTATIONS: list[Callable[[Random, bytes], bytes]] = [
    _insert, _replace, _delete, _repeat, _truncate, _add_line, _add_line, _change_line_end,
    _change_number, _change_number,
]  # fmt: skip
