"""Changes by commands are events exactly once, although commands and sidecars are killed."""

import asyncio
import json
import os
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import redis

from sidecar.stores import keys
from tests.support.limits_plan import limits_plan
from tests.support.processes import SIDECAR, StartServing, until

COMMANDS = 10


def shipped(sink: Path) -> list[dict[str, Any]]:
    """The whole lines of the sink's file: sidecars are killed while they write."""
    if not sink.exists():
        return []
    return [json.loads(line) for line in sink.read_bytes().split(b"\n")[:-1]]


def identities(sink: Path) -> set[tuple[str, str, str]]:
    """The account events, each once."""
    return {
        (one["type"], one["source"], one["id"])
        for one in shipped(sink)
        if one["type"].startswith("account.")
    }


async def grant(plans: Path, url: str, order: str, after_s: float | None) -> None:
    """Grant a pack; with `after_s`, the command is killed then."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SIDECAR_")}
    command = await asyncio.create_subprocess_exec(
        SIDECAR, "grant", "metered", "boost", f"--plans={plans}", f"--id={order}",
        f"--redis={url}", env=clean, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    if after_s is None:
        assert await command.wait() == 0
        return
    try:
        await asyncio.wait_for(command.wait(), after_s)
    except TimeoutError:
        command.send_signal(signal.SIGKILL)
        await command.wait()


async def test_14_each_grant_has_one_event_though_commands_and_sidecars_are_killed(
    serving: StartServing, valkey_url: str, tmp_path: Path
) -> None:
    chance = random.Random(12)
    plans, sink = tmp_path / "plans.yaml", tmp_path / "usage.jsonl"
    plans.write_text(limits_plan())
    options = {"plans": plans, "sinks": f"file:{sink}", "redis": valkey_url}
    sidecars = [await serving(**options) for _ in range(2)]
    for number in range(COMMANDS):
        killed = number % 3 == 0
        after_s = chance.uniform(0.1, 1.0) if killed else None
        await grant(plans, valkey_url, f"order-{number}", after_s)
        victim = sidecars[number % 2]
        if number % 2:
            await asyncio.sleep(chance.uniform(0, 1.2))  # a random instant of its work
            victim.process.kill()
            await victim.process.wait()
            await victim.start()
    with redis.Redis.from_url(valkey_url, decode_responses=True) as client:
        text = client.hget(keys.state("qs", "metered"), keys.GRANTS) or ""
        outbox = keys.outbox("qs", "metered")
        await until(lambda: not client.exists(outbox))
    granted = {f"grant/metered/{line.split(chr(9))[0]}" for line in text.splitlines()}
    assert {f"grant/metered/order-{n}" for n in range(COMMANDS) if n % 3} <= granted
    wanted = {("account.grant.v1", "/sidecar/accounts/qs", identity) for identity in granted}
    await until(lambda: identities(sink) >= wanted)
    assert identities(sink) == wanted
    contents = Counter(
        json.dumps([one["id"], one["time"], one["data"]], sort_keys=True)
        for one in shipped(sink)
        if one["type"] == "account.grant.v1"
    )
    assert len(contents) == len(wanted)  # copies of an event are equal
