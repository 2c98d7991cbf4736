"""Responses that a gateway must not relay, by their fault."""

OK = b"HTTP/1.1 200 OK\r\n"
FIXED = OK + b"Content-Length: 5\r\n"
CHUNKED_HEAD = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def _length(value: bytes) -> bytes:
    return OK + b"Content-Length: " + value + b"\r\n\r\nhello"


def _coding(value: bytes) -> bytes:
    return OK + b"Transfer-Encoding: " + value + b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


# The head is invalid: nothing is relayed (RFC 9112, sections 2.2, 4, 5 and 6.3).
HEADS: dict[str, bytes] = {
    "length and coding": FIXED + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "coding and length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello",
    "two lengths": FIXED + b"Content-Length: 6\r\n\r\nhello!",
    "two lengths, the second zero": FIXED + b"Content-Length: 0\r\n\r\nhello",
    "list of lengths": _length(b"5, 6"),
    "plus sign": _length(b"+5"),
    "minus sign": _length(b"-5"),
    "hexadecimal length": _length(b"0x5"),
    "length and junk": _length(b"5x"),
    "two numbers": _length(b"5 5"),
    "empty length": _length(b""),
    "fullwidth digit": _length(b"\xef\xbc\x95"),
    "endless length": _length(b"9" * 400),
    "length beyond 64 bits": _length(b"18446744073709551621"),
    "unknown coding": _coding(b"gzip"),
    "coding before chunked": _coding(b"gzip, chunked"),
    "chunked not last": _coding(b"chunked, gzip"),
    "chunked twice": _coding(b"chunked, chunked"),
    "two codings": OK + b"Transfer-Encoding: chunked\r\n" + _coding(b"chunked")[len(OK) :],
    "almost chunked": _coding(b"xchunked"),
    "empty coding": OK + b"Transfer-Encoding:\r\nContent-Length: 5\r\n\r\nhello",
    "coding in HTTP/1.0": _coding(b"chunked").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "bare CR in a value": FIXED + b"X-A: b\rX-B: c\r\n\r\nhello",
    "bare LF after a field": FIXED + b"X-A: b\nX-B: c\r\n\r\nhello",
    "bare LF everywhere": FIXED.replace(b"\r\n", b"\n") + b"\nhello",
    "CR CR LF": FIXED + b"X-A: b\r\r\n\r\nhello",
    "line folding": FIXED + b"X-A: b\r\n c\r\n\r\nhello",
    "NUL in a value": FIXED + b"X-A: b\x00c\r\n\r\nhello",
    "control in a value": FIXED + b"X-A: b\x07c\r\n\r\nhello",
    "space in a name": FIXED + b"X A: b\r\n\r\nhello",
    "line without colon": FIXED + b"X-A\r\n\r\nhello",
    "empty name": FIXED + b": b\r\n\r\nhello",
    "space before the first field": OK + b" X-A: b\r\nContent-Length: 5\r\n\r\nhello",
    "oversized value": FIXED + b"X-A: " + b"a" * 70_000 + b"\r\n\r\nhello",
    "oversized name": FIXED + b"a" * 70_000 + b": b\r\n\r\nhello",
    "oversized phrase": b"HTTP/1.1 200 " + b"a" * 70_000 + b"\r\nContent-Length: 5\r\n\r\nhello",
    "many fields": FIXED + b"X-A: b\r\n" * 20_000 + b"\r\nhello",
    "garbage": b"hello\r\n\r\n",
    "another protocol": b"ICY 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/2.0": FIXED.replace(b"1.1", b"2.0") + b"\r\nhello",
    "HTTP/0.9": b"<html>hello</html>",
    "lower case name": FIXED.replace(b"HTTP", b"http") + b"\r\nhello",
    "two-digit status": FIXED.replace(b"200", b"20") + b"\r\nhello",
    "four-digit status": FIXED.replace(b"200", b"2000") + b"\r\nhello",
    "status in letters": FIXED.replace(b"200", b"abc") + b"\r\nhello",
    "no space before the status": FIXED.replace(b" 200", b"200") + b"\r\nhello",
    "control in the phrase": FIXED.replace(b"OK", b"O\x00K") + b"\r\nhello",
    "switching protocols unasked": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n"
    b"Connection: Upgrade\r\n\r\n",
}

# The head is valid, the chunks are invalid (section 7.1).
CHUNKS: dict[str, bytes] = {
    "plus sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "minus sign": b"-5\r\nhello\r\n0\r\n\r\n",
    "prefix 0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "no digit": b"G\r\nhello\r\n0\r\n\r\n",
    "empty size": b"\r\nhello\r\n0\r\n\r\n",
    "space before": b" 5\r\nhello\r\n0\r\n\r\n",
    "size beyond 64 bits": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "LF after the size": b"5\nhello\r\n0\r\n\r\n",
    "CR and another byte": b"5\r\rhello\r\n0\r\n\r\n",
    "more than announced": b"5\r\nhelloXX\r\n0\r\n\r\n",
    "LF after the data": b"5\r\nhello\n0\r\n\r\n",
    "NUL after the size": b"5\x00\r\nhello\r\n0\r\n\r\n",
    "negative last chunk": b"5\r\nhello\r\n-0\r\n\r\n",
    "open quote": b'5;a="b\r\nhello\r\n0\r\n\r\n',
    "endless extension": b"5;" + b"a" * 70_000 + b"\r\nhello\r\n0\r\n\r\n",
    "folded trailer": b"5\r\nhello\r\n0\r\nX-T: a\r\n b\r\n\r\n",
    "NUL in a trailer": b"5\r\nhello\r\n0\r\nX-T: a\x00\r\n\r\n",
    "endless trailer": b"5\r\nhello\r\n0\r\nX-T: " + b"a" * 70_000 + b"\r\n\r\n",
}

# The upstream closes early: the response is valid but incomplete (section 8).
CUT_OFF: dict[str, bytes] = {
    "in a fixed body": FIXED + b"\r\nhel",
    "before a fixed body": FIXED + b"\r\n",
    "in a chunk": CHUNKED_HEAD + b"5\r\nhel",
    "between chunks": CHUNKED_HEAD + b"5\r\nhello\r\n",
    "before the trailers' end": CHUNKED_HEAD + b"5\r\nhello\r\n0\r\n",
}
