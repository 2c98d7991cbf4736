"""What a client prefers (RFC 7240): `Prefer: respond-async, wait=10`.

A preference that is unknown or malformed is as if it were not there (section 2).
"""

import re
from collections.abc import Iterable
from typing import Final

from sidecar.core.model import MICRO

RESPOND_ASYNC: Final = b"respond-async"
LONGEST: Final = 512  # bytes of one line of Prefer
_MEMBER: Final = re.compile(rb'(?:"(?:\\.|[^"\\])*"|[^,])+')
_SECONDS: Final = re.compile(rb'"?([0-9]{1,9})"?')


def members(value: bytes) -> list[bytes]:
    """A list's members: commas inside quoted strings do not part them. What is too long to be
    read in little time is one member that nobody knows."""
    if len(value) > LONGEST:
        return [value]
    return [part.strip(b" \t") for part in _MEMBER.findall(value)]


def name_of(member: bytes) -> bytes:
    """The name of a preference, in lower case; b"" for none."""
    return _pair(member)[0]


def wants_async(values: Iterable[bytes]) -> bool:
    """Whether the client prefers `202 Accepted` to a refusal (section 4.1)."""
    return any(name_of(one) == RESPOND_ASYNC for value in values for one in members(value))


def wait_preference(values: Iterable[bytes]) -> int | None:
    """The longest that the client wants to wait for the answer, in µs (section 4.3); None when it
    does not say. Of several, the first counts."""
    for value in values:
        for name, text in map(_pair, members(value)):
            if name == b"wait":
                found = _SECONDS.fullmatch(text)
                return int(found[1]) * MICRO if found else None
    return None


def _pair(member: bytes) -> tuple[bytes, bytes]:
    """(name in lower case, value), without parameters."""
    name, _, value = member.partition(b";")[0].partition(b"=")
    return name.strip(b" \t").lower(), value.strip(b" \t")
