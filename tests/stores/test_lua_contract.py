"""The header of each script against what `stores/redis.py` really sends to it and reads from it.

A header is the contract of its script. Values are named by the header and compared with what the
store means by that name, so neither the header, nor the store, nor the script can change its
order alone. What is sent is read from Valkey's own MONITOR.
"""

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import pytest
import redis

from sidecar.core.model import MICRO, Account, Claim, QuotaLimit, RateLimit
from sidecar.core.periods import bounds
from sidecar.stores import RedisLimitStore, Wire, keys
from sidecar.stores.redis import BUCKET_MARGIN_MS
from sidecar.stores.scripts import ClaimArguments, load

FOLDER = files("sidecar.stores") / "lua"
OPERATIONS = ("peek", "reserve")  # the store's methods of these names run the scripts

ACME = Account("acme", "pro", "Europe/Paris")
QUOTA = QuotaLimit("monthly", "requests", 100, "month", 120)
# So slow that nothing comes back while a test runs.
RATE = RateLimit("burst", "requests", 3, 100_000_000, 50, (3, 100_000_000), per="key")
CLAIMS = (Claim(QUOTA, 3, True), Claim(RATE, 2, False))


@dataclass(frozen=True)
class Header:
    """A script's first comment, read."""

    purpose: str
    guarantee: str
    keys: list[str]  # what each of KEYS is
    single: dict[str, str]  # ARGV before the groups: name → what it is
    size: int  # ARGV per claim
    group: dict[str, str]  # of one claim: name → what it is
    statuses: dict[str, str]  # first of the reply → what it says
    returns: list[str]  # names, the last two once per claim


def read_header(name: str) -> Header:
    lines = (FOLDER / f"{name}.lua").read_text().splitlines()
    code = next(number for number, line in enumerate(lines) if not line.startswith("--"))
    text = "\n".join(line[2:].removeprefix(" ") for line in lines[:code])
    single = re.findall(r"^ARGV\[(\d+)\] +(\w+): (.+)$", text, re.MULTILINE)
    first, size, rest = only(r"^ARGV\[(\d+)…\] groups of (\d+), one per claim(.*)$", text)
    assert [int(number) for number, *_ in single] == list(range(1, int(first)))
    known = re.fullmatch(r", as for (\w+)", rest)
    status, *returns = only(r"^Returns \{(.+?), …\}", text).split(", ")
    assert only(r"\{-1, (.+?)\}: bounds do not hold now", text) == "now_us"
    return Header(
        only(rf"\A{name}: (.+)$", text),
        only(r"^Guarantee: (.+)$", text),
        re.findall(r"^KEYS\[\d+\] +(.+)$", text, re.MULTILINE),
        {word: meaning for _, word, meaning in single},
        int(size),
        read_header(known[1]).group if known else read_group(text),
        dict(re.findall(r"(-?\d+) ([a-z ]*[a-z])", status)),
        ["status", *dict.fromkeys(returns)],
    )


def only(pattern: str, text: str) -> Any:
    found = re.findall(pattern, text, re.MULTILINE)
    assert len(found) == 1, f"{pattern} is there {len(found)} times"
    return found[0]


def read_group(text: str) -> dict[str, str]:
    group: dict[str, str] = {}
    for words, meaning in re.findall(r"^  (\w+(?:, \w+)*) +(\S.*)$", text, re.MULTILINE):
        group |= dict.fromkeys(words.split(", "), meaning)
    return group


@pytest.fixture(params=OPERATIONS)
def operation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


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


async def sent_by(store: RedisLimitStore, operation: str, client: redis.Redis) -> list[str]:
    """KEYS count, KEYS and ARGV of one call, as Valkey received them."""
    with client.monitor() as monitor:
        await getattr(store, operation)(ACME, "k1", CLAIMS)
        client.echo("the-end")
        commands: list[str] = []
        while not commands or "the-end" not in commands[-1]:
            commands.append(monitor.next_command()["command"])
    calls = {command for command in commands if command.startswith("EVALSHA")}
    (call,) = calls  # one, or one and the same again after SCRIPT LOAD
    _, sha, *arguments = call.split(" ")
    assert sha == load(operation).sha.decode()
    return arguments


def test_every_script_in_the_folder_is_held_to_its_header() -> None:
    assert {file.name for file in FOLDER.iterdir()} == {
        "arithmetic.lua",
        "refund.lua",
        *(f"{operation}.lua" for operation in OPERATIONS),
    }  # fmt: skip; refund has tests of its own: it is never called, only caused
    shared = (FOLDER / "arithmetic.lua").read_text().splitlines()[0]
    assert set(re.findall(r"\w+", shared)) >= set(OPERATIONS)


def test_a_header_says_what_the_script_is_for_and_what_it_promises(operation: str) -> None:
    header = read_header(operation)
    assert header.purpose.endswith(".") and header.guarantee.endswith(".")
    assert "only Redis time is used" in header.guarantee
    promise = {"peek": "changes nothing", "reserve": "a refusal writes nothing"}[operation]
    assert promise in header.guarantee


def test_the_names_of_a_claims_arguments_are_the_same_in_lua_and_python(operation: str) -> None:
    header = read_header(operation)
    assert tuple(header.group) == ClaimArguments._fields
    assert header.size == len(ClaimArguments._fields)


def test_the_shared_arithmetic_reads_each_argument_where_the_header_puts_it() -> None:
    code = (FOLDER / "arithmetic.lua").read_text()
    header = read_header("reserve")
    assert int(only(r"^local GROUP = (\d+)", code)) == header.size
    assert int(only(r"^local FIRST = (\d+)", code)) == 1 + len(header.single)
    read = {
        "kind": only(r"ARGV\[i( \+ \d+)?\] == 'rate'", code),
        "forced": only(r"ARGV\[i( \+ \d+)?\] ~= '1'", code),
    }
    for names, values in re.findall(
        r"local ([\w, ]+) = (tonumber\(ARGV\[i.+)$", code, re.MULTILINE
    ):
        offsets = re.findall(r"ARGV\[i( \+ \d+)?\]", values)
        read |= dict(zip(names.split(", "), offsets, strict=True))
    (read["field"],) = set(re.findall(r"ARGV\[i( \+ \d+)?\] \.\. ':[ut]'", code))
    at = {name: int(offset.removeprefix(" + ") or 0) for name, offset in read.items()}
    assert sorted(at, key=at.__getitem__) == list(header.group)
    assert sorted(at.values()) == list(range(header.size))


async def test_what_the_store_sends_is_what_the_header_names(
    operation: str, store: RedisLimitStore, client: redis.Redis
) -> None:
    header = read_header(operation)
    count, *rest = await sent_by(store, operation, client)
    assert int(count) == len(header.keys) == 1
    assert rest[0] == keys.state("qs", ACME.id)
    argv = rest[len(header.keys) :]
    single = dict(zip(header.single, argv, strict=False))
    to_full_us = 50 * MICRO * 100_000_000 // 3
    assert single == {"ttl_ms": str(to_full_us // 1000 + BUCKET_MARGIN_MS)}
    groups = argv[len(single) :]
    assert len(groups) == header.size * len(CLAIMS)
    quota, rate = (
        dict(zip(header.group, groups[at : at + header.size], strict=True))
        for at in range(0, len(groups), header.size)
    )
    start, end, after = bounds("month", ACME.timezone, None, time_of(client))
    assert quota == {
        "kind": "quota", "field": "q/monthly", "cost": "3", "forced": "1", "cap": "120",
        "a": str(start), "b": str(end), "c": str(after),
    }  # fmt: skip
    assert rate == {
        "kind": "rate", "field": "r/burst/k1", "cost": str(2 * MICRO), "forced": "0",
        "cap": str(50 * MICRO), "a": "3", "b": "100000000", "c": "0",
    }  # fmt: skip


def test_the_header_tells_units_and_words() -> None:
    header = read_header("reserve")
    assert "milliseconds" in header.single["ttl_ms"]
    assert re.findall(r'"(\w+)"', header.group["kind"]) == ["rate", "quota"]
    assert re.findall(r'"(\w+)"', header.group["forced"]) == ["1"]
    assert header.group["cost"] == "micro-units for rates, units for quotas"
    assert header.group["cap"] == "burst in micro-units, or the quota's cap in units"
    rates, quotas = header.group["a"].split("; ")
    assert rates == "rates: a micro-units come back every b µs, c is 0"
    assert quotas == "quotas: start, end, next end in µs"


def named(header: Header, reply: list[int]) -> dict[str, Any]:
    """A raw reply under the header's names; what is there once per claim as a tuple."""
    status, *head = header.returns[:-2]
    first, second = header.returns[-2:]
    at = 1 + len(head)
    return {
        status: header.statuses[str(reply[0])],
        **dict(zip(head, reply[1:at], strict=True)),
        first: tuple(reply[at::2]),
        second: tuple(reply[at + 1 :: 2]),
    }


async def test_what_the_store_reads_is_what_the_header_says_is_returned(
    operation: str, store: RedisLimitStore, client: redis.Redis
) -> None:
    header = read_header(operation)
    before = await store.reserve(ACME, "k1", CLAIMS)
    assert before.used == (3, 2 * MICRO)
    count, *arguments = await sent_by(store, operation, client)
    raw = named(header, client.evalsha(load(operation).sha.decode(), int(count), *arguments))
    charged = {"peek": 1, "reserve": 3}[operation]  # times, with the call that was watched
    granted = {"peek": "would grant", "reserve": "granted"}[operation]
    end = bounds("month", ACME.timezone, None, before.now_us)[1]
    assert raw.pop("now_us") > before.now_us
    assert raw == {
        "status": granted, "used": (3 * charged, 2 * MICRO * charged), "end_us": (end, 0)
    }  # fmt: skip
    read = await getattr(store, operation)(ACME, "k1", CLAIMS)
    charged = {"peek": 1, "reserve": 4}[operation]
    assert (read.granted, read.ends_us) == (True, (end, 0))
    assert read.used == (3 * charged, 2 * MICRO * charged)


async def test_a_refusal_is_returned_as_the_header_says(
    operation: str, store: RedisLimitStore, client: redis.Redis
) -> None:
    header = read_header(operation)
    count, *arguments = await sent_by(store, operation, client)
    cost = len(header.keys) + len(header.single) + header.size + list(header.group).index("cost")
    assert arguments[cost] == str(2 * MICRO)
    arguments[cost] = str(51 * MICRO)
    raw = named(header, client.evalsha(load(operation).sha.decode(), int(count), *arguments))
    assert raw["status"] == {"peek": "would refuse", "reserve": "refused"}[operation]
    too_much = [Claim(RATE, 51, False)]
    assert not (await getattr(store, operation)(ACME, "k1", too_much)).granted


async def test_bounds_that_do_not_hold_are_returned_as_the_header_says(
    operation: str, store: RedisLimitStore, client: redis.Redis
) -> None:
    header = read_header(operation)
    count, *arguments = await sent_by(store, operation, client)
    at = len(header.keys) + len(header.single) + list(header.group).index("a")
    arguments[at : at + 3] = ["0", "1", "2"]
    kept = client.hgetall(keys.state("qs", ACME.id))
    status, now_us = client.evalsha(load(operation).sha.decode(), int(count), *arguments)
    assert status == -1
    assert abs(now_us - time_of(client)) < 3_600 * MICRO
    assert client.hgetall(keys.state("qs", ACME.id)) == kept
