"""Background tasks: no code awaits them, so a failure must reach the log."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from sidecar.logs import logger

log = logger("app")

CANCEL_TIMEOUT_S: Final = 0.5


def run_in_background(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run the coroutine in a task, and log an exception that ends it."""
    name = getattr(work, "__qualname__", type(work).__name__)  # a compiled one has no name
    task = asyncio.get_running_loop().create_task(work, name=name)
    task.add_done_callback(_log_death)
    return task


async def cancel(task: asyncio.Task[None]) -> None:
    """Cancel the task and wait until it has ended.

    A library may take the cancellation for its own timeout and continue, so cancel repeatedly.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=CANCEL_TIMEOUT_S)


def _log_death(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("background_task_died", task=task.get_name(), exc_info=task.exception())
