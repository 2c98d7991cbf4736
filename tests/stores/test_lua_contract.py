"""The header of each script matches what the store sends to it and reads from it.

A header is the contract of its script. The tests name values by the header and compare them with
the store's values of these names. So the header, the store and the script must change together.
Commands are recorded at the wire, and Valkey answers them.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import hiredis
import pytest
import redis

from sidecar.core.answers import Hold
from sidecar.core.counting.counts import counts_of
from sidecar.core.counting.teams import team_share
from sidecar.core.kinds import MICRO, UNBOUNDED, ConcurrencyLimit, QuotaLimit, RateLimit
from sidecar.core.model import Account, Claim, Team
from sidecar.core.periods import bounds
from sidecar.stores import RedisLimitStore, Wire, keys
from sidecar.stores.commands import BUCKET_MARGIN_MS
from sidecar.stores.scripts import ClaimArguments, ClaimNumbers, load
from tests.support.stores.lua_headers import (
    FOLDER,
    OPERATIONS,
    Header,
    only,
    path_of,
    read_header,
    text_of,
)

ACME = Account("acme", "pro", "Europe/Paris")
QUOTA = QuotaLimit("monthly", "requests", 100, "month", 120, (80, 100), rollover=7)
# It does not refill during a test.
RATE = RateLimit("burst", "requests", 3, 100_000_000, 50, (3, 100_000_000), per="key", shadow=True)
SLOTS = ConcurrencyLimit("in-flight", 4)
CLAIMS = (Claim(QUOTA, 3, True), Claim(RATE, 2, False), Claim(SLOTS, 1, False))
HOLD = Hold("019a", 30 * MICRO, "release", late=True)
TTL_MS = b"%d" % (50 * MICRO * 100_000_000 // 3 // 1000 + BUCKET_MARGIN_MS)
WITH_CLAIMS = ("charge", "peek", "refund", "reserve", "settle")


@pytest.fixture
def client(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url, decode_responses=True) as connection:
        yield connection


@pytest.fixture
async def store(valkey_url: str) -> AsyncIterator[RedisLimitStore]:
    wire = Wire(valkey_url, timeout_s=10)
    await wire.start()
    yield RedisLimitStore(wire)
    await wire.stop()


def time_of(client: redis.Redis) -> int:
    seconds, micros = client.time()
    return int(seconds * MICRO + micros)


Do = Callable[[], Awaitable[object]]


async def sent(name: str, store: RedisLimitStore, do: Do) -> list[bytes]:
    """Number of KEYS, KEYS and ARGV of the last run of a script by `do`."""
    commands: list[list[bytes]] = []
    wire = store._wire
    execute, tell = wire.execute, wire.tell

    def record(command: bytes) -> None:
        reader = hiredis.Reader()
        reader.feed(command)
        commands.append(list(reader.gets()))

    def recorded_execute(command: bytes, *more: Any, **named: Any) -> Any:
        record(command)
        return execute(command, *more, **named)

    def recorded_tell(command: bytes, *more: Any, **named: Any) -> None:
        record(command)
        tell(command, *more, **named)

    wire.execute, wire.tell = recorded_execute, recorded_tell  # type: ignore[method-assign]
    try:
        await do()
    finally:
        wire.execute, wire.tell = execute, tell  # type: ignore[method-assign]
    runs = [c[2:] for c in commands if c[:2] == [b"EVALSHA", load(f"limits/{name}").sha]]
    assert runs, commands
    return runs[-1]


async def until_settled(store: RedisLimitStore) -> None:
    """Wait until every settlement is confirmed."""
    await store.settler.close()
    assert store.settler.pending == 0


async def arguments_of(name: str, store: RedisLimitStore) -> list[bytes]:
    """What the store sends for this operation on CLAIMS."""

    async def reserve() -> object:
        return await store.reserve(ACME, "k1", CLAIMS, hold=HOLD)

    async def settle() -> None:
        await reserve()
        store.settle(ACME, "k1", CLAIMS, HOLD.id)
        await until_settled(store)

    async def refund() -> None:
        now = (await store.peek(ACME, "k1", CLAIMS)).now_us
        store._refund_late(ACME, "k1", CLAIMS, [1, now], None)
        await store.peek(ACME, "k1", CLAIMS)

    async def renew() -> None:
        await reserve()
        store.settler._open[HOLD.id] = (0.0, ACME, HOLD.lease_us, "k1", CLAIMS)
        store.settler._renew_leases()
        await store.peek(ACME, "k1", CLAIMS)

    async def peek() -> object:
        return await store.peek(ACME, "k1", CLAIMS)

    does: dict[str, Do] = {
        "reserve": reserve, "settle": settle, "refund": refund, "renew": renew, "peek": peek,
    }  # fmt: skip
    return await sent(name, store, does[name])


def test_every_script_in_the_folder_has_a_tested_header() -> None:
    found = {str(file.relative_to(FOLDER)) for file in FOLDER.rglob("*.lua")}
    shared = {"time.lua", "limits/arithmetic.lua", "limits/rare.lua", "jobs/bytes.lua"}
    assert found == {str(path_of(name).relative_to(FOLDER)) for name in OPERATIONS} | shared


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_header_has_a_purpose_and_a_guarantee(name: str) -> None:
    header = read_header(name)
    assert header.purpose.endswith(".") and header.guarantee.endswith(".")
    assert "only Redis time is used" in header.guarantee
    promises = {
        "peek": "changes nothing", "reserve": "a refusal writes nothing",
        "settle": "once per reservation", "grant": "once per id",
        "charge": "once per entry of a journal", "beat": "is removed after its lifetime",
        "rebuild": "that were counted since the read stay counted",
    }  # fmt: skip
    assert promises.get(name, "") in header.guarantee


@pytest.mark.parametrize("name", WITH_CLAIMS)
def test_a_claims_arguments_have_the_same_names_in_lua_and_python(name: str) -> None:
    header = read_header(name)
    assert tuple(header.group) == ClaimArguments._fields
    assert header.size == len(ClaimArguments._fields)
    assert list(header.single)[1] == "claims"


def test_the_shared_arithmetic_reads_each_argument_at_its_position_in_the_header() -> None:
    code = path_of("arithmetic").read_text()
    header = read_header("reserve")
    first, group = only(r"^local FIRST, GROUP = (\d+), (\d+)", code)
    assert (int(first), int(group)) == (1 + len(header.single), header.size)
    at = {name: position for position, name in enumerate(header.group)}

    def reads(pattern: str) -> list[int]:
        return [int(n or 0) for n in re.findall(pattern, code)]

    offset = r"ARGV\[i(?: \+ (\d+))?\]"
    for name in ("kind", "force", "notices"):
        assert set(reads(rf"\b{name} = {offset}")) == {at[name]}
    assert reads(r"ARGV\[FIRST \+ \(k - 1\) \* GROUP \+ (\d+)\]") == [at["field"]]
    numbers, position = only(rf"local ([\w, ]+) = unpack_numbers\('<d{{9}}', {offset}\)", code)
    assert (numbers.split(", "), int(position)) == (list(ClaimNumbers._fields), at["numbers"])
    assert header.group["numbers"].rpartition(": ")[2] == numbers


@pytest.mark.parametrize("name", sorted({*WITH_CLAIMS} - {"charge"}))
async def test_the_store_sends_the_arguments_of_the_header(
    name: str, store: RedisLimitStore, client: redis.Redis
) -> None:
    header = read_header(name)
    count, *rest = await arguments_of(name, store)
    names = [keys.state("qs", "acme").encode(), keys.leases("qs", "acme").encode()]
    assert rest[: int(count)] == names[: int(count)]
    assert int(count) == len(header.keys)
    argv = rest[int(count) :]
    assert dict(zip(header.single, argv, strict=False)) == {
        "ttl_ms": TTL_MS, "claims": b"%d" % len(CLAIMS)
    }  # fmt: skip
    groups = argv[len(header.single) :]
    quota, rate, slots = (
        dict(zip(header.group, groups[at : at + header.size], strict=True))
        for at in range(0, header.size * len(CLAIMS), header.size)
    )
    start, end, after = bounds("month", ACME.timezone, None, time_of(client))
    before = bounds("month", ACME.timezone, None, start - 1)[0]
    bounds_sent = start, end, after, before
    sent_numbers = ClaimNumbers(3, 120, *bounds_sent, 100, 7, counts=counts_of(QUOTA))
    assert quota == {
        "kind": b"quota", "field": b"q/monthly", "force": b"1", "numbers": sent_numbers.packed(),
        "notices": b"80,100",
    }  # fmt: skip
    assert rate == {
        "kind": b"rate", "field": b"r/burst/k1", "force": b"2", "notices": b"",
        "numbers": ClaimNumbers(
            2 * MICRO, 50 * MICRO, 3, 100_000_000, counts=counts_of(RATE)
        ).packed(),
    }  # fmt: skip
    assert slots == {
        "kind": b"slots", "field": b"c/in-flight", "force": b"0", "notices": b"",
        "numbers": ClaimNumbers(1, 4).packed(),
    }  # fmt: skip
    after_groups = groups[header.size * len(CLAIMS) :]
    if name == "refund":
        assert list(header.tail) == ["charged_us", "reported"]
        assert abs(int(after_groups[0]) - time_of(client)) < 3_600 * MICRO
        assert after_groups[1:] == [b"0"] * len(CLAIMS)
    else:
        tail = dict(zip(header.tail, after_groups, strict=True))
        expected = {
            "lease_us": b"%d" % HOLD.lease_us, "orphans": b"release", "late": b"1",
            "billed": b"1", "hold": b"019a",
        }  # fmt: skip
        assert tail == {word: expected[word] for word in header.tail}


async def test_a_team_share_is_sent_as_the_header_says(
    store: RedisLimitStore, client: redis.Redis
) -> None:
    header = read_header("reserve")
    teams = (Team("search", 40), Team("ads", 30, lends=False), Team("mail", 5))
    share = team_share(QUOTA, teams, "search")
    claims = (Claim(QUOTA, 3, False), Claim(share, 3, False))

    async def reserve() -> object:
        return await store.reserve(ACME, "k1", claims)

    sent_now = (await sent("reserve", store, reserve))[4:]
    group = dict(zip(header.group, sent_now[header.size : 2 * header.size], strict=True))
    start, end, after = bounds("month", ACME.timezone, None, time_of(client))
    before = bounds("month", ACME.timezone, None, start - 1)[0]
    bounds_sent = start, end, after, before
    sent_numbers = ClaimNumbers(3, UNBOUNDED, *bounds_sent, 40, 1, counts=counts_of(QUOTA))
    assert group == {
        "kind": b"team", "field": b"t/monthly/search", "force": b"0",
        "numbers": sent_numbers.packed(),
        "notices": b"t/monthly/ads\t30\t0\nt/monthly/mail\t5\t1\n",
    }  # fmt: skip
    assert "field, units, lends, with tabs between" in text_of("reserve")


async def test_a_renewal_is_sent_as_its_header_says(store: RedisLimitStore) -> None:
    header = read_header("renew")
    sent_now = await arguments_of("renew", store)
    leases = keys.leases("qs", "acme").encode()
    assert sent_now == [b"1", leases, b"%d" % HOLD.lease_us, HOLD.id.encode()]
    assert (len(header.keys), list(header.single)) == (1, ["lease_us"])


def test_the_header_has_units_and_values() -> None:
    header: Header = read_header("reserve")
    assert "milliseconds" in header.single["ttl_ms"]
    assert re.findall(r'"(\w+)"', header.group["kind"]) == ["rate", "quota", "team", "slots"]
    assert re.findall(r'"(\w+)"', header.group["force"]) == ["0", "1", "2"]
    assert re.findall(r'"(\w+)"', header.tail["orphans"]) == ["charge", "release"]


async def test_the_store_reads_replies_as_the_header_says(
    store: RedisLimitStore, client: redis.Redis
) -> None:
    header = read_header("reserve")
    assert header.few == ["now_us", "used", "end_us"]
    assert (
        "used, end_us, notified (percent, before this request), carried, left (in grants), burned"
        " (by this request), overage"
        in (" ".join(path_of("reserve").read_text().replace("\n--", " ").split()))
    )
    few = Claim(RATE, 2, False)
    answer = await store.reserve(ACME, "k1", (few,))
    assert (answer.granted, answer.used, answer.ends_us, answer.details) == (
        True, (2 * MICRO,), (0,), ()
    )  # fmt: skip
    first = await store.reserve(ACME, "k1", (Claim(QUOTA, 85, False),))
    end = bounds("month", ACME.timezone, None, first.now_us)[1]
    assert (first.used, first.ends_us, first.details[0].notified) == ((85,), (end,), 0)
    second = await store.reserve(ACME, "k1", (Claim(QUOTA, 20, False),))
    assert (second.used, second.details[0]) == ((105,), (80, 0, 0, 0, 5, 0))
    refused = await store.reserve(ACME, "k1", (Claim(QUOTA, 16, False),))
    assert (refused.granted, refused.used) == (False, (105,))
