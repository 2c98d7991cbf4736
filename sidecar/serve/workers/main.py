"""A worker: a whole sidecar without a control port, that obeys and answers its supervisor.

Started as `python -m sidecar.serve.workers.main DESCRIPTOR`; everything else comes through the
channel. When that closes, the supervisor is gone and the worker drains and ends.
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
from sidecar.serve.process import prepare, settle_in, started
from sidecar.serve.share import WorkerShare
from sidecar.serve.shutdown import Shutdown
from sidecar.serve.workers.aggregate import families_of
from sidecar.serve.workers.channel import Channel, Message
from sidecar.settings import Settings


def main() -> None:
    """Serve until told to stop, then drain. Exit code 0; 1 or 2 when it could not start."""
    sys.exit(uvloop.run(_work(int(sys.argv[1]))))


async def _work(descriptor: int) -> int:
    channel = await Channel.over(socket.socket(fileno=descriptor))
    ending = Shutdown()
    ending.listen()
    prepare()
    task = await channel.receive()
    if task is None:
        return 0
    try:
        settings = Settings.load(task["flags"])
        logs.configure(settings.log_level, settings.log_format)
        app = App(settings, share=_share(task["share"]), ending=ending)
        if not await started(app):
            return 0
    except SidecarError as error:
        channel.send({"failed": _failure(error)})
        await channel.flush()
        return 2 if isinstance(error, SettingsError | ConfigError | SpoolError) else 1
    settle_in(app)
    channel.send({"serving": True})
    obeying = asyncio.create_task(_obey(channel, app))
    await ending.asked.wait()
    await app.stop()  # the supervisor may go on asking meanwhile
    obeying.cancel()
    return 0


def _share(value: Message) -> WorkerShare:
    return WorkerShare(
        worker=value["worker"],
        leftovers=tuple(Path(path) for path in value["leftovers"]),
        turns_in=Path(value["turns_in"]),
        descriptor=value["descriptor"],
    )


def _failure(error: SidecarError) -> Message:
    """As the supervisor can raise it again."""
    problems = error.problems if isinstance(error, ConfigError) else ()
    return {
        "kind": type(error).__name__,
        "text": str(error),
        "problems": [asdict(problem) for problem in problems],
    }


async def _obey(channel: Channel, app: App) -> None:
    async for message in channel.messages():
        if message.get("do") == "reload":
            app.reload()
        elif message.get("do") == "stop":
            app.ending.ask(at_once=message["at_once"])
        else:
            channel.send({"id": message["id"], "answer": _answer(app, message["ask"])})
    if not app.ending.asked.is_set():
        app.ending.ask()


def _answer(app: App, what: str) -> Any:
    if what == "metrics":
        return families_of(app.metrics.registry)
    if what == "config":
        return app.keeper.status()
    return app.readiness()


if __name__ == "__main__":
    main()
