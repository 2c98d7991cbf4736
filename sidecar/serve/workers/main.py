"""A worker: a whole sidecar without a control port, run by the supervisor.

Starts as `python -m sidecar.serve.workers.main DESCRIPTOR`; everything else comes through the
channel. When the channel closes, the supervisor has ended, and the worker drains and ends.
"""

import asyncio
import socket
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvloop

from sidecar import logs
from sidecar.errors import ConfigError, SettingsError, SidecarError, SpoolError
from sidecar.serve.app import App
from sidecar.serve.process import prepare, settle, start
from sidecar.serve.share import WorkerShare
from sidecar.serve.shutdown import Shutdown
from sidecar.serve.workers.aggregate import families_of
from sidecar.serve.workers.channel import Channel, Message
from sidecar.settings import Settings


def main() -> None:
    """Serve until shutdown, then drain. Exit with 0; with 1 or 2 if the worker cannot start."""
    sys.exit(uvloop.run(_serve(int(sys.argv[1]))))


async def _serve(descriptor: int) -> int:
    channel = await Channel.over(socket.socket(fileno=descriptor))
    shutdown = Shutdown()
    shutdown.handle_signals()
    prepare()
    setup = await channel.receive()
    if setup is None:
        return 0
    try:
        settings = Settings.load(setup["flags"])
        logs.configure(settings.log_level, settings.log_format)
        app = App(settings, share=_share(setup["share"]), shutdown=shutdown)
        if not await start(app):
            return 0
    except SidecarError as error:
        channel.send({"failed": _failure(error)})
        await channel.flush()
        return 2 if isinstance(error, SettingsError | ConfigError | SpoolError) else 1
    settle(app)
    channel.send({"serving": True})
    obeying = asyncio.create_task(_obey(channel, app))
    await shutdown.requested.wait()
    await app.stop()  # the worker still answers the supervisor's questions
    obeying.cancel()
    return 0


def _share(value: Message) -> WorkerShare:
    return WorkerShare(
        worker=value["worker"],
        orphan_spools=tuple(Path(path) for path in value["orphan_spools"]),
        lock_directory=Path(value["lock_directory"]),
        descriptor=value["descriptor"],
        decide_descriptor=value["decide_descriptor"],
    )


def _failure(error: SidecarError) -> Message:
    """The error, in a form from which the supervisor can raise it again."""
    problems = error.problems if isinstance(error, ConfigError) else ()
    return {
        "kind": type(error).__name__,
        "text": str(error),
        "problems": [asdict(problem) for problem in problems],
    }


async def _obey(channel: Channel, app: App) -> None:
    """Carry out the supervisor's commands and answer its questions, until the channel closes."""
    async for message in channel.messages():
        if message.get("do") == "reload":
            app.reload()
        elif message.get("do") == "announce":
            app.shutdown.announce()
        elif message.get("do") == "stop":
            app.shutdown.request(skip_delay=message["skip_delay"])
        else:
            channel.send({"id": message["id"], "answer": _answer(app, message["ask"])})
    if not app.shutdown.requested.is_set():
        app.shutdown.request()


def _answer(app: App, question: str) -> Any:
    if question == "metrics":
        return families_of(app.metrics.registry)
    if question == "config":
        return app.keeper.status()
    return app.readiness()


if __name__ == "__main__":
    main()
