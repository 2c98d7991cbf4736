"""Draws the dashboards with real data: `python -m loadtests.dashboards [--seconds N]`.

A sidecar gets requests at a changing rate, and events happen: Redis stops for a while, the plan
file changes and becomes invalid, the API is overloaded. A real Prometheus scrapes the sidecar, and
answers the query of each panel.
"""

import argparse
import asyncio
import math
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Final

from loadtests.dashboards import prometheus
from loadtests.dashboards.draw import draw
from loadtests.dashboards.panels import DASHBOARDS, ROOT, read_panels, with_variables
from loadtests.dashboards.traffic import Traffic
from loadtests.processes import DidNotStart, Stack, free_port, wait_for_http, wait_for_port
from loadtests.valkey import start_valkey

_PROGRAM: Final = str(Path(sys.executable).parent / "sidecar")
_PLANS: Final = Path(__file__).with_name("plans.yaml")
_STEP_S: Final = 1.0
_WINDOW: Final = "5s"


class Scene:
    """The processes, and what happens to them."""

    def __init__(self, stack: Stack, program: str) -> None:
        self._plans = stack.directory / "plans.yaml"
        shutil.copy(_PLANS, self._plans)
        self.valkey, valkey_port = start_valkey(stack)
        api, self.port, control, self.prometheus = (free_port() for _ in range(4))
        started = stack.start(
            "api", [sys.executable, "-m", "loadtests.dashboards.api", str(api)],
            env={"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        wait_for_port(started, api)
        flags = {
            "plans": self._plans,
            "upstream": f"http://127.0.0.1:{api}",
            "listen": f"127.0.0.1:{self.port}",
            "control": f"127.0.0.1:{control}",
            "redis": f"redis://127.0.0.1:{valkey_port}/0",
            "spool": stack.directory / "spool",
            "sinks": f"file:{stack.directory / 'events.jsonl'},redis",
            "shed": 6,
            **_certificate(stack),
        }
        command = [_PROGRAM, "serve", *(f"--{name}={value}" for name, value in flags.items())]
        self.sidecar = stack.start("sidecar", command)
        wait_for_http(self.sidecar, f"http://127.0.0.1:{control}/readyz")
        settings = prometheus.config(f"127.0.0.1:{control}", (), every="500ms")
        server = stack.start(
            "prometheus",
            prometheus.command(program, stack.directory, self.prometheus, settings),
        )
        wait_for_http(server, f"http://127.0.0.1:{self.prometheus}/-/ready")

    async def happen(self, seconds: float) -> None:
        """Let the events of the picture happen, spread over the time."""
        text = self._plans.read_text()
        await asyncio.sleep(seconds * 0.35)
        self._plans.write_text(text + "# a comment\n")
        await asyncio.sleep(seconds * 0.15)
        self.valkey.popen.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds * 0.08)
        self.valkey.popen.send_signal(signal.SIGCONT)
        await asyncio.sleep(seconds * 0.17)
        self._plans.write_text(text + "wrong\n")
        await asyncio.sleep(seconds * 0.1)
        self._plans.write_text(text)
        await asyncio.sleep(seconds * 0.15)


def _certificate(stack: Stack) -> dict[str, Path]:
    cert, key = stack.directory / "tls.crt", stack.directory / "tls.key"
    command = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-keyout", str(key), "-out", str(cert), "-days", "30", "-subj", "/CN=localhost",
    ]  # fmt: skip
    made = stack.start("openssl", command)
    if made.popen.wait(20):
        raise DidNotStart(f"openssl: {made.tail()}")
    return {"tls-cert": cert, "tls-key": key}


async def _run(scene: Scene, seconds: float) -> None:
    started = time.monotonic()

    def rate() -> float:
        """A wave, with a peak in its middle that overloads the API."""
        at = (time.monotonic() - started) / seconds
        return 90 + 60 * math.sin(at * 12) + (250 if 0.86 < at < 0.92 else 0)

    traffic = Traffic(f"https://127.0.0.1:{scene.port}", rate)
    sending = asyncio.create_task(traffic.run())
    await scene.happen(seconds)
    traffic.stop()
    await sending
    print(f"{traffic.sent} requests in {seconds:.0f} s")


def _draw_all(port: int, start: float, end: float, output: Path) -> None:
    span = f"{end - start:.0f}s"

    def read(query: str) -> list[prometheus.Series]:
        text = with_variables(query, window=_WINDOW, span=span)
        found = prometheus.query_range(port, text, start, end, _STEP_S)
        return [one for one in found if not all(math.isnan(y) for _, y in one[1])]

    for path in sorted(DASHBOARDS.glob("*.json")):
        picture = output / f"dashboard-{path.stem}.png"
        draw(f"Quota Sidecar: {path.stem}", read_panels(path.stem), read, picture)
        print(picture)


def main() -> int:
    """Run the scene and draw. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.dashboards", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="length of the scene")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images")
    options = parser.parse_args()
    program = shutil.which("prometheus")
    if program is None:
        print("prometheus is not installed (Debian, Ubuntu: apt-get install prometheus)")
        return 2
    with Stack() as stack:
        try:
            scene = Scene(stack, program)
        except DidNotStart as error:
            print(error)
            return 2
        start = time.time()
        asyncio.run(_run(scene, options.seconds))
        _draw_all(scene.prometheus, start + 2, time.time(), options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
