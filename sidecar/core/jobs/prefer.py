"""Preferences of a client (RFC 7240): `Prefer: respond-async, wait=10`.

An unknown or malformed preference is ignored (section 2).
"""

import re
from collections.abc import Iterable
from typing import Final

from sidecar.core.kinds import MICRO

RESPOND_ASYNC: Final = b"respond-async"
MAX_BYTES: Final = 512  # of one line of Prefer
_MEMBER: Final = re.compile(rb'(?:"(?:\\.|[^"\\])*"|[^,])+')
_SECONDS: Final = re.compile(rb'"?([0-9]{1,9})"?')


def preferences(value: bytes) -> list[bytes]:
    """Split a list at its commas, except those in quoted strings.

    A value of more than `MAX_BYTES` is one unknown member, so that parsing takes bounded time.
    """
    if len(value) > MAX_BYTES:
        return [value]
    return [part.strip(b" \t") for part in _MEMBER.findall(value)]


def preference_name(member: bytes) -> bytes:
    """Return the name of a preference in lower case; b"" if it has none."""
    return _pair(member)[0]


def wants_async(values: Iterable[bytes]) -> bool:
    """Whether the client prefers `202 Accepted` to a refusal (section 4.1)."""
    return any(
        preference_name(one) == RESPOND_ASYNC for value in values for one in preferences(value)
    )


def wait_preference(values: Iterable[bytes]) -> int | None:
    """Return the longest wait that the client accepts, in µs (section 4.3); None if unset.

    The first of several counts.
    """
    for value in values:
        for name, text in map(_pair, preferences(value)):
            if name == b"wait":
                match = _SECONDS.fullmatch(text)
                return int(match[1]) * MICRO if match else None
    return None


def _pair(member: bytes) -> tuple[bytes, bytes]:
    """Return (name in lower case, value) without parameters."""
    name, _, value = member.partition(b";")[0].partition(b"=")
    return name.strip(b" \t").lower(), value.strip(b" \t")
