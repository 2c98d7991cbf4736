"""The OpenTelemetry Collector, built from its Go modules into build/collector."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from loadtests.processes import DidNotStart, Running, Stack, free_port, wait_for_port

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = Path(__file__).parent / "collector"
PROGRAM: Final = ROOT / "build" / "collector" / "otelcol"
_BUILD_SECONDS: Final = 1_800.0


def build() -> None:
    """Build the collector, unless it is there already. Raises DidNotStart."""
    if PROGRAM.exists():
        return
    go = shutil.which("go")
    if go is None:
        raise DidNotStart("go is not installed; the collector is built from its Go modules")
    print("Building the OpenTelemetry Collector (two minutes of CPU, the first time)", flush=True)
    PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    command = [go, "build", "-trimpath", "-ldflags", "-s -w", "-o", str(PROGRAM), "."]
    try:
        subprocess.run(
            command,
            cwd=SOURCE,
            check=True,
            timeout=_BUILD_SECONDS,
            env={**os.environ, "CGO_ENABLED": "0"},
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise DidNotStart(f"the collector cannot be built: {error}") from error


class Collector:
    """A collector that writes what it receives into a file."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.port = free_port()
        self._file = stack.directory / "spans.jsonl"
        self._config = stack.directory / "collector.yaml"
        self._config.write_text(json.dumps(self._settings()))  # JSON is YAML
        self._running: Running | None = None

    def _settings(self) -> dict[str, Any]:
        http = {"http": {"endpoint": f"127.0.0.1:{self.port}"}}
        return {
            "receivers": {"otlp": {"protocols": http}},
            "exporters": {"file": {"path": str(self._file), "append": True}},
            "service": {
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["file"]}},
            },
        }

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, also again. Raises DidNotStart."""
        command = [str(PROGRAM), "--config", f"file:{self._config}"]
        self._running = self._stack.start("collector", command)
        wait_for_port(self._running, self.port)

    def stop(self) -> None:
        """Stop it, so that it writes what it has."""
        if self._running is not None:
            self._stack.stop(self._running)
            self._running = None

    def spans(self) -> Iterator[dict[str, Any]]:
        """All spans in the file."""
        for line in self._file.read_text().splitlines():
            for of_resource in json.loads(line)["resourceSpans"]:
                for scope in of_resource["scopeSpans"]:
                    yield from scope["spans"]
