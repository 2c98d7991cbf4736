"""The image's own health check: `python -m sidecar.commands.health`.

It runs every few seconds, so it imports nothing but the standard library, and it knows the
control port from where the image has it, SIDECAR_CONTROL.
"""

import os
import sys
from http.client import HTTPConnection, HTTPException
from typing import Final

_DEFAULT: Final = "127.0.0.1:9090"
_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where not to connect to
_WITHIN_S: Final = 1.0


def address(control: str) -> tuple[str, int]:
    """Where the control port is reached from here. Raises ValueError."""
    host, _, port = control.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    return _LOOPBACK.get(bare, bare), int(port)


def main() -> int:
    """0 when /healthz says that the process runs, else 1, with the reason on stderr."""
    control = os.environ.get("SIDECAR_CONTROL") or _DEFAULT
    try:
        connection = HTTPConnection(*address(control), timeout=_WITHIN_S)
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        if answer.status == 200:
            return 0
        why = f"{answer.status} {answer.read(1_000).decode(errors='replace')}"
    except (OSError, ValueError, HTTPException) as error:
        why = str(error) or type(error).__name__
    print(f"SIDECAR_CONTROL={control}: {why}", file=sys.stderr)  # noqa: T201 - docker keeps it
    return 1


if __name__ == "__main__":
    sys.exit(main())
