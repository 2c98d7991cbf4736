"""The health check of the image: `python -m sidecar.commands.health`.

It runs every few seconds, so it imports only the standard library. It reads the control port from
SIDECAR_CONTROL.
"""

import os
import sys
from http.client import HTTPConnection, HTTPException
from typing import Final

_DEFAULT: Final = "127.0.0.1:9090"
_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - never connected to
_TIMEOUT_S: Final = 1.0


def address(control: str) -> tuple[str, int]:
    """The control port's address on this machine. Raises ValueError."""
    host, _, port = control.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    return _LOOPBACK.get(bare, bare), int(port)


def main() -> int:
    """Exit code 0 if /healthz answers 200, else 1 with the reason on stderr."""
    control = os.environ.get("SIDECAR_CONTROL") or _DEFAULT
    try:
        connection = HTTPConnection(*address(control), timeout=_TIMEOUT_S)
        connection.request("GET", "/healthz")
        response = connection.getresponse()
        if response.status == 200:
            return 0
        reason = f"{response.status} {response.read(1_000).decode(errors='replace')}"
    except (OSError, ValueError, HTTPException) as error:
        reason = str(error) or type(error).__name__
    print(f"SIDECAR_CONTROL={control}: {reason}", file=sys.stderr)  # noqa: T201 - docker stores it
    return 1


if __name__ == "__main__":
    sys.exit(main())
