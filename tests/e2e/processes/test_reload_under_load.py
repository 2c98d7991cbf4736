"""Requests continue unchanged while a large plan file is reloaded."""

import asyncio
import hashlib
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.support.processes import PATIENCE_S, Serving, StartServing, until
from tests.support.stage import Upstream, plans_text

ACCOUNTS = 5_000
CLIENTS = 8


@pytest.fixture
async def api() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    yield upstream
    server.close()


def large_file() -> str:
    digests = (hashlib.sha256(b"%d" % number).hexdigest() for number in range(ACCOUNTS))
    accounts = (
        f"  - {{id: c{number}, plan: free, keys: [{{id: k1, sha256: {digest}}}]}}\n"
        for number, digest in enumerate(digests)
    )
    return plans_text(quota=1_000_000_000) + "".join(accounts)


async def calls(here: Serving, answers: Counter[int], stop: asyncio.Event) -> None:
    async with aiohttp.ClientSession(headers={"X-Api-Key": "acme"}) as session:
        while not stop.is_set():
            async with session.get(f"http://127.0.0.1:{here.port}/items") as answer:
                await answer.read()
                answers[answer.status] += 1


async def is_live(here: Serving) -> bool:
    return bool(json.loads((await here.ask("/config"))[1])["reloads"])


async def test_I7_requests_continue_while_five_thousand_accounts_are_reloaded(
    serving: StartServing, api: Upstream, tmp_path: Path
) -> None:
    answers: Counter[int] = Counter()
    stop = asyncio.Event()
    file, pipe, large = tmp_path / "plans.yaml", tmp_path / "pipe", tmp_path / "large"
    await asyncio.to_thread(file.write_text, plans_text(quota=1_000_000_000))
    await asyncio.to_thread(large.write_text, large_file())
    here = await serving(plans=file, upstream=f"http://127.0.0.1:{api.port}")

    async def many_calls() -> None:
        enough = answers.total() + 10 * CLIENTS
        await until(lambda: answers.total() >= enough)

    async with asyncio.TaskGroup() as clients, asyncio.timeout(PATIENCE_S):
        for _ in range(CLIENTS):
            clients.create_task(calls(here, answers, stop))
        os.mkfifo(pipe)
        pipe.rename(file)  # the file is being read until the test ends it
        here.process.send_signal(signal.SIGHUP)
        with await asyncio.to_thread(file.open, "wb") as reading:
            large.rename(file)
            await many_calls()
            await asyncio.to_thread(reading.write, large_file().encode())
        while not await is_live(here):
            await asyncio.sleep(0.01)
        await many_calls()
        stop.set()
    assert set(answers) == {200}
