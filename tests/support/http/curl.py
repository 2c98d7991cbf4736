"""curl as a subprocess, with a timeout."""

import asyncio
import subprocess
from dataclasses import dataclass

from tests.support.http.asgi_api import PATIENCE_S

FIELDS = "\n%{http_code} %{num_connects} %{size_upload}"


@dataclass
class Done:
    """The output of curl, and its report about the last transfer."""

    output: bytes
    code: int
    status: int
    connects: int  # new connections for that transfer
    uploaded: int  # bytes of bodies


async def curl(url: str, *options: object, key: str = "acme") -> Done:
    """Run curl."""
    process = await asyncio.create_subprocess_exec(
        "curl", "-q", "-sS", "--max-time", str(PATIENCE_S), "-w", FIELDS,
        "-H", f"X-Api-Key: {key}", *map(str, options), url,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    out, _ = await process.communicate()
    output, _, report = out.rpartition(b"\n")
    status, connects, uploaded = map(int, report.split())
    return Done(output, process.returncode or 0, status, connects, uploaded)
