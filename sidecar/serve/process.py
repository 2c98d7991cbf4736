"""What every process that serves does with itself, alone or as a worker."""

import asyncio
import contextlib
import gc
import signal
from typing import Final

from sidecar import logs
from sidecar.serve.app import App

GC_THRESHOLDS: Final = (20_000, 20, 50)


def prepare() -> None:
    """Before the sidecar starts: what nobody foresaw is logged, and SIGHUP does not end us."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(logs.unexpected)
    loop.add_signal_handler(signal.SIGHUP, _nothing)


async def started(app: App) -> bool:
    """Start it. False: it was asked to end before it served, and all of it is down again. Raises
    what `App.start` raises."""
    starting = asyncio.ensure_future(app.start())
    asked = asyncio.ensure_future(app.ending.asked.wait())
    await asyncio.wait([starting, asked], return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    if not starting.done():
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
            await app.stop()  # it was up before it heard of that
        return False
    await starting
    return True


def settle_in(app: App) -> None:
    """Once the sidecar serves: SIGHUP has it read its files again.

    Requests leave no cycles behind, so collections find nothing: let them come rarely, and not
    look again at what was there at the start.
    """
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, app.reload)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _nothing() -> None:
    pass
