"""The sidecar in a single process."""

import uvloop

from sidecar import logs
from sidecar.serve.app import App
from sidecar.serve.process import (
    log_drain_started,
    log_serving,
    log_stopped,
    prepare,
    settle,
    start,
)
from sidecar.settings import Settings

log = logs.logger("process")


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, then drain. Return exit code 0."""
    logs.configure(settings.log_level, settings.log_format)
    uvloop.run(_serve(settings))
    return 0


async def _serve(settings: Settings) -> None:
    prepare()
    app = App(settings)
    app.shutdown.handle_signals()
    if not await start(app):
        log.info("start_cancelled")
        return
    settle(app)
    log_serving(settings, workers=1)
    await app.shutdown.requested.wait()
    log_drain_started()
    await app.stop()
    log_stopped(app.shutdown)
