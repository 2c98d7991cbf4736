"""What the sample applications share: each relays to the API that records its requests."""

import os
from collections.abc import Iterable

from quota_sidecar import Options, cost

API = os.environ.get("SAMPLE_API", "")
# A test's sidecar, with the paths that stay open without it.
OPTIONS = Options(
    address=os.environ.get("SAMPLE_DECIDE", "unix:/unused"),
    critical=["/v1/login", "/v1/status"],
    timeout_s=5,
)
RAISES = "/v1/items/raises"  # before the response begins
BREAKS = "/v1/items/breaks"  # after its first part
HELD = "/v1/items/held"  # the API's stream, sent when it is complete
_HOPS = {"host", "connection", "keep-alive", "transfer-encoding", "server", "date"}


class SampleError(Exception):
    """Raised by a handler."""


def kept(fields: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Fields to pass on."""
    return [(name, value) for name, value in fields if name.lower() not in _HOPS]


@cost(tokens=int)
def priced(units: str) -> str:
    """A handler whose cost is what it returns."""
    return units


@cost(tokens=int)
async def priced_async(units: str) -> str:
    return units
