"""JSON as lax readers take it: many APIs and clients read more than RFC 8259 allows.

A text may have NaN and Infinity, numbers of any size, control characters and half of a surrogate
pair in strings, and bytes that are not UTF-8. A language model makes such texts, and a client can
cause them, so they must not hide what a request costs. UTF-16 and UTF-32 are recognised, too.
"""

from json import detect_encoding
from json.decoder import JSONDecoder
from typing import Any, Final

import orjson

# Integers as floats: they may have any number of digits, and a cost is below 2**53.
_LAX: Final = JSONDecoder(strict=False, parse_int=float)


def parse(text: bytes) -> Any:
    """Parse a JSON text, with or without a byte order mark. Raises ValueError."""
    try:
        return orjson.loads(text.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError:
        return parse_lax(text)


def parse_lax(text: bytes) -> Any:
    """Parse a text that is not strict JSON. Raises ValueError."""
    try:
        return _LAX.decode(text.decode(detect_encoding(text), "replace"))
    except RecursionError:
        raise ValueError("nested too deep") from None
