"""The headers of charge.lua and beat.lua match what is sent and read."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import hiredis
import pytest
import redis

from sidecar.core.kinds import MICRO, QuotaLimit
from sidecar.core.model import Account, Claim
from sidecar.core.periods import bounds
from sidecar.stores import Wire, keys
from sidecar.stores.commands import QUOTA_MARGIN_MS, Commands
from sidecar.stores.local.charger import Sum, charge_command
from sidecar.stores.local.clock import StoreClock
from sidecar.stores.local.heartbeat import LIFETIME_US, Heartbeat, State
from sidecar.stores.scripts import ClaimNumbers, load
from tests.support.stores.lua_headers import read_header

ACME = Account("acme", "pro", "Europe/Paris")
QUOTA = QuotaLimit("monthly", "requests", 100, "month", 120, (80, 100), rollover=7)
KEYED = QuotaLimit("daily", "requests", 10, "day", 10, per="key")


@pytest.fixture
def client(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url, decode_responses=True) as connection:
        yield connection


@pytest.fixture
async def wire(valkey_url: str) -> AsyncIterator[Wire]:
    wire = Wire(valkey_url, timeout_s=10)
    await wire.start()
    yield wire
    await wire.stop()


def parts(command: bytes) -> list[bytes]:
    """The arguments of a command after EVALSHA and the SHA-1."""
    reader = hiredis.Reader()
    reader.feed(command)
    name, sha, *rest = reader.gets()
    assert name == b"EVALSHA"
    assert sha in {load(name).sha for name in ("limits/beat", "limits/charge")}
    return rest


async def test_a_charge_is_sent_and_answered_as_its_header_says(
    wire: Wire, client: redis.Redis
) -> None:
    header = read_header("charge")
    seconds, micros = client.time()
    now = seconds * MICRO + micros
    month, day = (bounds(unit, ACME.timezone, None, now)[0] for unit in ("month", "day"))
    one = Sum(ACME, "k1", "0a", 3, 3)
    for seq, cost in ((3, 2), (9, 5)):
        claims = (Claim(QUOTA, cost, False), Claim(KEYED, 1, False))
        one.add(seq, now + seq, list(zip(claims, (month, day), (1, 0), strict=True)))
    command = charge_command(Commands("qs"), "qs", one, now)
    count, *rest = parts(command)
    names = [keys.state("qs", "acme"), keys.charged("qs", "acme", "0a", "k1")]
    assert rest[: int(count)] == [name.encode() for name in names]
    assert int(count) == len(header.keys)
    ttl, number, *argv = rest[int(count) :]
    assert list(header.single) == ["ttl_ms", "claims"]
    assert (int(ttl), int(number)) == (2_682_000_000 + QUOTA_MARGIN_MS, 2)
    first, second = (
        dict(zip(header.group, argv[at : at + header.size], strict=True)) for at in (0, header.size)
    )
    assert (first["kind"], first["field"], first["force"]) == (b"quota", b"q/monthly", b"1")
    assert first["numbers"][:16] == ClaimNumbers(7, 120).packed()[:16]
    assert (second["field"], second["numbers"][:8]) == (
        b"q/daily/k1",
        ClaimNumbers(2, 0).packed()[:8],
    )
    tail = argv[2 * header.size :]
    assert list(header.tail) == ["first", "last", "until", "reported"]
    assert tail == [b"3", b"9", b"%d" % (now + 9), b"%d" % (now + 9), b"2", b"0"]
    assert header.statuses == {
        "1": "charged", "0": "was charged before", "-2": "a part was charged before"
    }  # fmt: skip
    client.script_load(load("limits/charge").text)
    assert (await wire.execute(command))[::2][:3] == [1, 7, 2]
    assert (await wire.execute(command))[::2][:3] == [0, 7, 2]
    one.last = 12
    status, _, mark = await wire.execute(charge_command(Commands("qs"), "qs", one, now))
    assert (status, mark) == (-2, 9)
    assert 0 < client.pttl(names[1]) <= int(ttl)


async def test_I9_a_heartbeat_is_sent_as_its_header_says_and_expires(
    wire: Wire, client: redis.Redis
) -> None:
    header = read_header("beat")
    names = [keys.sidecars("qs"), keys.uncharged_sidecars("qs")]
    sent: list[bytes] = []
    execute = wire.execute

    def recorded(command: bytes, *more: Any) -> Any:
        sent.append(command)
        return execute(command, *more)

    wire.execute = recorded  # type: ignore[method-assign]
    heart = Heartbeat(wire, "qs", "me", StoreClock())
    for state in ("uncharged", "charged", "uncharged"):
        assert await heart.beat(_state(state), 17) == "ok"
        count, *rest = parts(sent[-1])
        assert rest[: int(count)] == [name.encode() for name in names]
        argv = dict(zip(header.single, rest[int(count) :], strict=True))
        assert argv == {
            "id": b"me", "state": state.encode(), "lifetime_us": b"%d" % LIFETIME_US,
            "since_us": b"17",
        }  # fmt: skip
        assert (heart.alive, heart.ready) == (1, 0 if state == "uncharged" else 1)
    assert header.few == ["now_us", "ready"]
    assert all(0 < client.pttl(name) <= LIFETIME_US // 1000 for name in names)
    assert await heart.beat("leaving") == "ok"
    assert not client.exists(*names)


def _state(word: str) -> State:
    assert word in ("charged", "uncharged", "leaving")
    return word  # type: ignore[return-value]
