"""The life of a serving process: signals, exceptions that no code caught, log events.

The single process, the workers and the supervisor share it. It does not import the app at run
time, so that the supervisor stays small.
"""

import asyncio
import contextlib
import gc
import resource
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sidecar import logs
from sidecar.serve.shutdown import Shutdown
from sidecar.settings import Settings

if TYPE_CHECKING:
    from sidecar.serve.app import App

log = logs.logger("process")

GC_THRESHOLDS: Final = (20_000, 20, 50)


def prepare(on_hangup: Callable[[], None] = lambda: None) -> None:
    """Log exceptions that no code catches, and call `on_hangup` on SIGHUP.

    The default keeps SIGHUP from ending a process that still starts. A crash writes no core dump,
    which would have API keys and passwords; `prlimit --core=unlimited --pid PID` allows one.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(logs.unhandled)
    loop.add_signal_handler(signal.SIGHUP, on_hangup)


async def start(app: "App") -> bool:
    """Start the app and return whether it serves.

    False: shutdown was requested first, and everything is stopped again. Raises the errors of
    `App.start`.
    """
    starting = asyncio.ensure_future(app.start())
    requested = asyncio.ensure_future(app.shutdown.requested.wait())
    await asyncio.wait([starting, requested], return_when=asyncio.FIRST_COMPLETED)
    requested.cancel()
    if not starting.done():
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
            await app.stop()  # it had started before the cancellation arrived
        return False
    await starting
    return True


def settle(app: "App") -> None:
    """Adapt the process to an app that serves: SIGHUP reloads its files.

    Requests leave no reference cycles, so garbage collections find nothing. From now on they are
    rare, and skip the objects made at the start.
    """
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, app.reload)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def log_serving(settings: Settings, workers: int) -> None:
    """Log once that the whole sidecar serves."""
    log.info(
        "sidecar_serving",
        listen=str(settings.listen),
        control=str(settings.control),
        decide=str(settings.decide) if settings.decide else None,
        upstream=str(settings.upstream),
        plans=str(settings.plans),
        workers=workers,
    )


def log_drain_started() -> None:
    """Log that the process stops as soon as its requests have ended."""
    log.info("drain_started")


def log_stopped(shutdown: Shutdown) -> None:
    """Log the end of a process that has served."""
    if shutdown.hurried.is_set():
        log.info("drain_cut_short")
    log.info("sidecar_stopped")
