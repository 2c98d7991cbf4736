"""Plan files compiled in the test's own process, which has all of the compiler loaded: hundreds of
sidecars start in a run. That a process of its own makes the same book is tested in tests/config."""

from pathlib import Path

from sidecar.config.loading import load
from sidecar.core.model import PlanBook


async def compiled_here(path: Path) -> PlanBook:
    """Raises ConfigError."""
    return load(path)
