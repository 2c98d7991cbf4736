"""Compilation of plan files in the test process, which is faster than a child process per sidecar.

tests/config checks that a child process compiles the same plan book.
"""

from pathlib import Path

from sidecar.config.loading import load
from sidecar.core.model import PlanBook


async def compiled_here(path: Path) -> PlanBook:
    """The plan book of a file. Raises ConfigError."""
    return load(path)
