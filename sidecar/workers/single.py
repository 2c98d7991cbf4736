"""One process that is the whole sidecar."""

import uvloop

from sidecar import logs
from sidecar.app import App
from sidecar.settings import Settings
from sidecar.workers.process import prepare, settle_in, started

log = logs.logger("app")


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, then drain. Returns the exit code, 0."""
    logs.configure(settings.log_level, settings.log_format)
    uvloop.run(_serve(settings))
    return 0


async def _serve(settings: Settings) -> None:
    prepare()
    app = App(settings)
    app.ending.listen()
    if not await started(app):
        log.info("stopped before it served")
        return
    settle_in(app)
    await app.ending.asked.wait()
    log.info("draining")
    await app.stop()
    log.info("cut short" if app.ending.hurry.is_set() else "stopped")
