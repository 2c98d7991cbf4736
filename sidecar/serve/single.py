"""One process that is the whole sidecar."""

import uvloop

from sidecar import logs
from sidecar.serve.app import App
from sidecar.serve.process import prepare, settle_in, started
from sidecar.settings import Settings

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
        log.info("start_cancelled")
        return
    settle_in(app)
    await app.ending.asked.wait()
    log.info("drain_started")
    await app.stop()
    if app.ending.hurry.is_set():
        log.info("drain_cut_short")
    else:
        log.info("sidecar_stopped")
