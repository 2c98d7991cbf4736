"""What dead processes left in their journals is charged: all of it, once, in the right period."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis

from sidecar.core.model import MICRO, Claim, QuotaLimit
from sidecar.core.periods import window_at
from sidecar.core.shares import NEVER_SEEN
from sidecar.files import Files
from sidecar.stores import Wire
from sidecar.stores.commands import Commands
from sidecar.stores.local.abandoned_journals import AbandonedJournals
from sidecar.stores.local.charger import Sum, charge_command
from sidecar.stores.local.journal import Journal
from sidecar.stores.scripts import load
from tests.support.stores.local_stage import ACME, new_id, used

DAY_US = 86_400 * MICRO
MONTHLY = QuotaLimit("monthly", "requests", 100, "month", 100)
KEYED = QuotaLimit("keyed", "requests", 100, "month", 100, per="key")
DAILY = QuotaLimit("daily", "requests", 100, "day", 100)


@pytest.fixture
async def wire(valkey_url: str) -> AsyncIterator[Wire]:
    wire = Wire(valkey_url, timeout_s=10)
    await wire.start()
    yield wire
    await wire.stop()


def now_of(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        seconds, micros = client.time()
    return int(seconds * MICRO + micros)


async def a_dead_journal(directory: Path, entries: list[tuple[str, int, int]]) -> str:
    """Of calls (key, cost, instant); a cost below 0 is of a call that was not over."""
    journal = Journal(directory, Files(), identity=new_id(), commit_window_s=0.001)
    for number, (key_id, cost, at_us) in enumerate(entries):
        claims = [Claim(limit, abs(cost), False) for limit in (MONTHLY, KEYED, DAILY)]
        journal.add(
            ACME, key_id, claims, at_us, sidecars=1, look=lambda _: NEVER_SEEN,
            hold_id=f"h{number}", is_open=cost < 0,
        )  # fmt: skip
    identity = journal.id
    await journal.close()
    return identity


async def charged(directory: Path, wire: Wire) -> AbandonedJournals:
    """Everything in the directory."""
    heir = AbandonedJournals(directory, wire, Commands("qs"), "qs", Files())
    await heir.find()
    async with asyncio.timeout(60):
        await heir.charge()
    assert heir.waiting == 0
    return heir


async def test_calls_are_charged_to_account_and_key(
    wire: Wire, valkey_url: str, tmp_path: Path
) -> None:
    now = now_of(valkey_url)
    await a_dead_journal(tmp_path, [("k1", 3, now), ("k2", 4, now), ("k1", 5, now)])
    await charged(tmp_path, wire)
    assert used(valkey_url, MONTHLY) == 12
    assert [used(valkey_url, KEYED, key_id=key_id) for key_id in ("k1", "k2")] == [8, 4]
    assert not _left(tmp_path)


async def test_a_call_that_was_not_over_is_charged_what_was_reserved(
    wire: Wire, valkey_url: str, tmp_path: Path
) -> None:
    now = now_of(valkey_url)
    await a_dead_journal(tmp_path, [("k1", -7, now), ("k1", 1, now)])
    await charged(tmp_path, wire)
    assert used(valkey_url, MONTHLY) == 8


async def test_what_is_of_a_period_that_is_over_is_not_charged_to_the_one_that_came_after(
    wire: Wire, valkey_url: str, tmp_path: Path
) -> None:
    now = now_of(valkey_url)
    this = window_at(DAILY, ACME, now).start
    await a_dead_journal(tmp_path, [("k1", 10, this - 1), ("k1", 5, now)])
    await charged(tmp_path, wire)
    assert used(valkey_url, DAILY) == 5
    same_month = window_at(MONTHLY, ACME, this - 1).start == window_at(MONTHLY, ACME, now).start
    assert used(valkey_url, MONTHLY) == (15 if same_month else 5)


@pytest.mark.parametrize("done", [0, 1, 6, 19, 20])
async def test_I5_what_its_process_had_charged_itself_is_left_out(
    wire: Wire, valkey_url: str, tmp_path: Path, done: int
) -> None:
    now = now_of(valkey_url)
    journal = await a_dead_journal(tmp_path, [("k1", 1, now)] * 20)
    if done:
        one = Sum(ACME, "k1", journal, 1, 1)
        for seq in range(1, done + 1):
            limits = (MONTHLY, KEYED, DAILY)
            one.add(seq, [(Claim(x, 1, True), window_at(x, ACME, now).start) for x in limits])
        await wire.execute(_load())
        assert (await wire.execute(charge_command(Commands("qs"), "qs", one, now)))[0] == 1
    await charged(tmp_path, wire)
    assert used(valkey_url, MONTHLY) == 20


async def test_I5_a_heir_that_dies_leaves_the_rest_to_the_next(
    wire: Wire, valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.stores.local.journal_reader.CHUNK", 10)
    now = now_of(valkey_url)
    await a_dead_journal(tmp_path, [("k1", 1, now)] * 55)
    heir = AbandonedJournals(tmp_path, wire, Commands("qs"), "qs", Files())
    await heir.find()
    dying = asyncio.ensure_future(heir.charge())
    async with asyncio.timeout(60):
        while used(valkey_url, MONTHLY) < 20:
            await asyncio.sleep(0)
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    heir.close()
    await charged(tmp_path, wire)
    assert used(valkey_url, MONTHLY) == 55


async def test_a_damaged_journal_is_charged_as_far_as_it_can_be_read_and_set_aside(
    wire: Wire, valkey_url: str, tmp_path: Path
) -> None:
    now = now_of(valkey_url)
    await a_dead_journal(tmp_path, [("k1", 1, now)] * 9)
    [path] = _left(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]) + b"rubbish\n" + b"".join(lines[6:]))
    await charged(tmp_path, wire)
    assert used(valkey_url, MONTHLY) == 8
    assert [one.name for one in _left(tmp_path)] == [path.name + ".bad"]
    await charged(tmp_path, wire)
    assert used(valkey_url, MONTHLY) == 8


async def test_a_file_that_is_no_journal_is_set_aside(
    wire: Wire, valkey_url: str, tmp_path: Path
) -> None:
    (tmp_path / "x.journal").write_bytes(b'["used",1,0,5,[1],null]\n')
    await charged(tmp_path, wire)
    assert [one.name for one in _left(tmp_path)] == ["x.journal.bad"]


def _left(directory: Path) -> list[Path]:
    return list(directory.iterdir())


def _load() -> bytes:
    from sidecar.stores.connection.wire import encode

    return encode(b"SCRIPT", b"LOAD", load("limits/charge").text)
