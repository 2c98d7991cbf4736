"""`sidecar demo`: Valkey, a sample API and the sidecar in front of it, on this machine only.

This module starts and stops them in order. Nothing outlives the demo.
"""

import asyncio
import contextlib
import signal
import socket
import tempfile
from importlib import resources
from pathlib import Path

from sidecar.addresses import Endpoint
from sidecar.demo.guide import guide
from sidecar.errors import SettingsError
from sidecar.settings import Settings, UnixPath


def run(*, listen: str, control: str, plans: str | None) -> int:
    """Run until Ctrl-C or SIGTERM and return 0. Raises SidecarError if a part cannot start."""
    import uvloop

    from sidecar.demo.valkey import Valkey, free_port

    with tempfile.TemporaryDirectory(prefix="sidecar-demo-") as folder:
        directory = Path(folder)
        valkey, api_port = Valkey(directory), free_port()
        settings = Settings.load(
            {
                "plans": plans or str(resources.files("sidecar.demo") / "plans.yaml"),
                "upstream": f"http://127.0.0.1:{api_port}",
                "listen": listen,
                "control": control,
                "redis": valkey.url,
                "spool": str(directory / "spool"),
                "source": "/sidecar/demo",
                "sinks": "",
                "log_level": "error",
                "log_format": "console",
                "drain_timeout_s": "2",
            }
        )
        for flag, address in (("--listen", settings.listen), ("--control", settings.control)):
            _require_free(flag, address)
        valkey.start()
        try:
            return int(uvloop.run(_serve(settings)))
        finally:
            valkey.stop()


def _require_free(flag: str, address: Endpoint) -> None:
    """Raise SettingsError if the address cannot be listened on."""
    if isinstance(address, UnixPath):
        return  # the data port reports that itself
    try:
        family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        in_use = "Address already in use" in str(error)
        problem = "is in use" if in_use else f"cannot be used: {error.strerror or error}"
        raise SettingsError(
            f"{flag}: {address} {problem}; choose another with {flag} HOST:PORT "
            f'(make demo ARGS="{flag} HOST:PORT")'
        ) from None


async def _serve(settings: Settings) -> int:
    from sidecar.demo.api import SampleApi
    from sidecar.demo.screen import decision_view
    from sidecar.logs import configure
    from sidecar.serve.app import App

    configure(settings.log_level, settings.log_format)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    view = decision_view()
    async with contextlib.AsyncExitStack() as stack:
        api = SampleApi(settings.upstream.port)
        await api.start()
        stack.push_async_callback(api.stop)
        app = App(settings, on_decision=view.show)
        await app.start()
        stack.push_async_callback(app.stop)
        print(guide(settings), flush=True)  # noqa: T201
        await view.run_until(stopped)
        print("\nStopping.", flush=True)  # noqa: T201
    return 0
