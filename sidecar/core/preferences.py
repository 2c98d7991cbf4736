"""What a client prefers (RFC 7240): `Prefer: wait=10, respond-async`.

A preference that is unknown or malformed is as if it were not there (section 2).
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from sidecar.core.model import MICRO

_SECONDS: Final = re.compile(rb"\"?([0-9]{1,9})\"?")


def wait_preference(values: Iterable[bytes]) -> int | None:
    """The longest that the client wants to wait for the answer, in µs (section 4.3); None when it
    does not say. Of several, the first counts."""
    for name, value in _preferences(values):
        if name == b"wait":
            found = _SECONDS.fullmatch(value)
            return int(found[1]) * MICRO if found else None
    return None


def _preferences(values: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """(name in lower case, value) of each, without parameters."""
    for text in values:
        for preference in text.split(b","):
            name, _, value = preference.partition(b";")[0].partition(b"=")
            yield name.strip(b" \t").lower(), value.strip(b" \t")
