"""The preStop hook of the image: `python -m sidecar.commands.drain [PID]`.

It announces the shutdown to the sidecar, by default process 1, and returns at once. Kubernetes runs
the hooks of all containers when a pod begins to end, but sends SIGTERM to a sidecar only after the
API has ended. It imports only the standard library.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Final

_FIRST_PROCESS: Final = 1
_COMMAND: Final = b"sidecar"


def main(arguments: list[str]) -> int:
    """Exit code 0 if the sidecar was notified, 1 with the reason on stderr, 2 for a usage error."""
    try:
        (pid,) = [int(text) for text in arguments] or [_FIRST_PROCESS]
    except ValueError:
        print("usage: python -m sidecar.commands.drain [PID]", file=sys.stderr)  # noqa: T201
        return 2
    try:
        if not is_sidecar(pid):
            raise OSError("it is not a sidecar")
        os.kill(pid, signal.SIGUSR1)
    except OSError as error:
        reason = error.strerror or str(error)
        print(f"process {pid}: {reason}", file=sys.stderr)  # noqa: T201 - for the platform's log
        return 1
    return 0


def is_sidecar(pid: int) -> bool:
    """Whether the process runs `sidecar serve`. Raises OSError if it does not exist."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    names = [word.rpartition(b"/")[2] for word in words]
    return _COMMAND in names and b"serve" in names[names.index(_COMMAND) :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
