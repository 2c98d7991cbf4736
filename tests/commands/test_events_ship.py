"""events ship: the spool of a sidecar that is gone, shipped by hand."""

import asyncio
import json
from pathlib import Path
from typing import Any

import redis

from sidecar.core.kinds import MICRO, QuotaLimit
from sidecar.core.model import Claim
from sidecar.core.shares import NEVER_SEEN
from sidecar.files import Files
from sidecar.metering.verify import verify
from sidecar.stores.local.journal import Journal
from tests.support.events import a_spool, fill
from tests.support.servers import free_port
from tests.support.stores.local_stage import ACME, new_id, used

MONTHLY = QuotaLimit("monthly", "requests", 100, "month", 100)


def test_every_event_of_a_dead_spool_reaches_the_sinks_once(
    sidecar: Any, valkey_url: str, tmp_path: Path
) -> None:
    spool, output = tmp_path / "spool", tmp_path / "usage.jsonl"
    asyncio.run(fill(spool, 5))
    asyncio.run(fill(spool / "worker-1", 3, first=10))
    call = ("events", "ship", "--spool", spool, "--sinks", f"file:{output},redis",
            "--redis", valkey_url)  # fmt: skip
    done = sidecar(*call)
    assert done.returncode == 0, done.stderr
    assert f"{spool}: 5 events shipped" in done.stderr
    expected = {f"event-{number}" for number in (1, 2, 3, 4, 5, 10, 11, 12)}
    read = [json.loads(line)["id"] for line in output.read_text().splitlines()]
    assert (set(read), len(read)) == (expected, 8)
    client = redis.Redis.from_url(valkey_url)
    assert client.xlen("qs:events") == 8
    client.close()
    assert verify(spool).ok
    again = sidecar(*call)
    assert again.returncode == 0
    assert f"{spool}: 0 events shipped" in again.stderr
    assert len(output.read_text().splitlines()) == 8


async def test_a_spool_in_use_is_refused(sidecar: Any, tmp_path: Path) -> None:
    await fill(tmp_path / "spool", 3)
    async with a_spool(tmp_path / "spool"):
        done = await asyncio.to_thread(
            sidecar, "events", "ship", "--spool", tmp_path / "spool",
            "--sinks", f"file:{tmp_path / 'usage.jsonl'}",
        )  # fmt: skip
    assert done.returncode == 2
    assert "is in use by another process" in done.stderr


def test_events_that_are_left_are_an_error(sidecar: Any, tmp_path: Path) -> None:
    asyncio.run(fill(tmp_path / "spool", 3))
    done = sidecar("events", "ship", "--spool", tmp_path / "spool", "--timeout-s", "0.5",
                   "--sinks", f"file:{tmp_path / 'none' / 'usage.jsonl'}")  # fmt: skip
    assert done.returncode == 1
    assert "3 events left" in done.stderr
    assert "cannot be opened: No such file or directory" in done.stderr


def test_events_that_one_of_two_sinks_lacks_are_left(sidecar: Any, tmp_path: Path) -> None:
    asyncio.run(fill(tmp_path / "spool", 3))
    output = tmp_path / "usage.jsonl"
    done = sidecar("events", "ship", "--spool", tmp_path / "spool", "--timeout-s", "5",
                   "--sinks", f"file:{output},redis",
                   "--redis", f"redis://127.0.0.1:{free_port()}/0")  # fmt: skip
    assert done.returncode == 1
    assert "0 events shipped; 3 events left" in done.stderr
    assert len(output.read_text().splitlines()) == 3


def test_without_sinks_or_spool_it_says_so(sidecar: Any, tmp_path: Path) -> None:
    asyncio.run(fill(tmp_path / "spool", 1))
    done = sidecar("events", "ship", "--spool", tmp_path / "spool")
    assert (done.returncode, "--sinks" in done.stderr) == (2, True)
    none = sidecar("events", "ship", "--spool", tmp_path / "no", "--sinks", "stdout")
    assert (none.returncode, none.stdout) == (2, "")


async def a_journal(spool: Path, url: str, costs: list[int]) -> Journal:
    """The journal of requests that were allowed without Redis, not closed yet."""
    with redis.Redis.from_url(url) as client:
        seconds, micros = client.time()
    journal = Journal(spool / "journal", Files(), identity=new_id(), commit_window_s=0.001)
    for number, cost in enumerate(costs):
        journal.add(
            ACME, "k1", [Claim(MONTHLY, cost, False)], seconds * MICRO + micros, sidecars=1,
            snapshot_of=lambda _: NEVER_SEEN, hold_id=f"h{number}", is_open=False,
        )  # fmt: skip
    return journal


async def test_the_journal_of_a_dead_pod_is_charged_once(
    sidecar: Any, valkey_url: str, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    await fill(spool, 2)
    await (await a_journal(spool, valkey_url, [3, 4])).close()
    flags = ("--spool", spool, "--sinks", f"file:{tmp_path / 'usage.jsonl'}")
    failed = await asyncio.to_thread(
        sidecar, "events", "ship", *flags, "--redis", "redis://127.0.0.1:1", "--timeout-s", "0.5"
    )
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-3:] == [
        f"{spool / 'journal'}: 0 requests charged",
        "error: --redis (SIDECAR_REDIS): 127.0.0.1:1 refuses connections, and 2 requests are left",
        "try: start it, or name another with --redis URL",
    ]
    for words in ("2 requests charged", ""):
        done = await asyncio.to_thread(
            sidecar, "events", "ship", *flags, "--redis", valkey_url
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert words in done.stderr
        assert ("charged" in done.stderr) is bool(words)
        assert used(valkey_url, MONTHLY) == 7
    assert not list((spool / "journal").glob("*.journal"))


async def test_the_journal_of_a_running_sidecar_is_left_to_it(
    sidecar: Any, valkey_url: str, tmp_path: Path
) -> None:
    await fill(tmp_path / "spool", 1)
    journal = await a_journal(tmp_path / "spool", valkey_url, [3])
    done = await asyncio.to_thread(
        sidecar, "events", "ship", "--spool", tmp_path / "spool", "--sinks",
        f"file:{tmp_path / 'usage.jsonl'}", "--redis", valkey_url,
    )  # fmt: skip
    await journal.close()
    assert done.returncode == 0, done.stderr
    assert "charged" not in done.stderr
