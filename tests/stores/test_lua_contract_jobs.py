"""The headers of the scripts of deferred jobs against what is really sent and read."""

from collections.abc import AsyncIterator, Awaitable
from typing import Any

import hiredis
import pytest
import redis

from sidecar.core.jobs.job import Claimed, Job, JobCall, JobState, Once, Over, Result
from sidecar.stores import Wire, keys
from sidecar.stores.job_records import ended, written
from sidecar.stores.jobs import GRACE_US, HIDE_US, HURRIED, HURRY_US, OVERDUE, JobTerms, RedisJobs
from sidecar.stores.scripts import load
from tests.support.stores.lua_headers import OF_JOBS, read_header

TERMS = JobTerms(per_account=7, in_all=9, max_age_s=1_000, result_ttl_s=100, lease_s=2.5)
TTL = b"1100000"
CALL = JobCall("POST", b"/x", b"a.test", "10.0.0.1", ((b"x-a", b"X-A: b\r\n"),), b"body")
JOB = Job(
    id="0199", account="acme", key="k1", digest=b"\x01" * 32, delivery="at-most-once",
    method="POST", target=b"/x", call=CALL,
)  # fmt: skip
QUEUE, RECORD = "qs:{acme}:jobs:shop:queue", "qs:{acme}:jobs:shop:job:"


class Noting:
    """A store, and what it sends to each script."""

    def __init__(self, wire: Wire) -> None:
        self.jobs = RedisJobs(wire, "qs", "shop", TERMS)
        self.sent: dict[str, list[bytes]] = {}
        self._names = {load(name).sha: name for name in OF_JOBS}
        execute = wire.execute

        def noted(command: bytes, *more: Any, **named: Any) -> Any:
            reader = hiredis.Reader()
            reader.feed(command)
            word, sha, *rest = reader.gets()
            if word == b"EVALSHA" and sha in self._names:
                self.sent[self._names[sha]] = rest
            return execute(command, *more, **named)

        wire.execute = noted  # type: ignore[method-assign]

    async def by_name(self, name: str, asked: Awaitable[Any]) -> tuple[list[str], dict[str, bytes]]:
        """KEYS, and ARGV by the names of the header, of the last call of the script."""
        await asked
        count, *rest = self.sent.pop(name)
        header = read_header(name)
        names = [one.decode() for one in rest[: int(count)]]
        assert len(names) <= len(header.keys)
        argv = dict(zip(header.single, rest[int(count) :], strict=False))
        assert argv.keys() == header.single.keys()
        return names, argv


@pytest.fixture
async def noting(valkey_url: str) -> AsyncIterator[Noting]:
    wire = Wire(valkey_url, timeout_s=10)
    await wire.start()
    yield Noting(wire)
    await wire.stop()


def of_all(what: str) -> str:
    return keys.jobs_of_all("qs", "shop", what)


async def test_what_is_sent_of_a_new_job_is_what_the_headers_name(noting: Noting) -> None:
    add = noting.jobs.add(JOB, Once("name", "print"), look_in_us=17)
    names, argv = await noting.by_name("jobs/place", add)
    assert names == [of_all("open"), of_all("turns")]
    assert argv == {
        "job": b"0199/acme", "account": b"acme", "most": b"9", "grace_us": b"%d" % GRACE_US,
        "ttl_ms": TTL,
    }  # fmt: skip
    count, *rest = noting.sent["jobs/add"]
    assert rest[: int(count)] == [
        QUEUE.encode(), RECORD.encode() + b"0199", b"qs:{acme}:jobs:shop:once:name"
    ]  # fmt: skip
    argv = dict(zip(read_header("jobs/add").single, rest[int(count) :], strict=False))
    pairs = [str(one).encode() if not isinstance(one, bytes) else one for one in written(JOB)]
    assert argv == {
        "ttl_ms": TTL, "most": b"7", "job": b"0199", "print": b"print",
        "fields": b"%d" % len(pairs),
    }  # fmt: skip
    assert rest[int(count) + len(argv) :] == pairs
    count, *rest = noting.sent["jobs/turn"]
    assert rest == [of_all("turns").encode(), b"acme", b"sooner", b"17", TTL]


async def test_what_is_sent_of_a_job_that_runs_is_what_the_headers_name(noting: Noting) -> None:
    jobs = noting.jobs
    await jobs.add(JOB, None, look_in_us=0)
    names, argv = await noting.by_name("jobs/take", jobs.take(3))
    assert (names, argv) == (
        [of_all("turns")], {"most": b"3", "hide_us": b"%d" % HIDE_US, "ttl_ms": TTL}
    )  # fmt: skip
    names, argv = await noting.by_name("jobs/claim", jobs.claim("acme", "me"))
    assert (names, argv) == ([QUEUE, RECORD], {"owner": b"me", "lease_ms": b"2500"})
    assert noting.sent["jobs/turn"][1:] == [
        of_all("running").encode(), b"0199/acme", b"any", b"2500000", TTL
    ]  # fmt: skip
    names, argv = await noting.by_name("jobs/move", jobs.keep(JOB, "me"))
    same = {"owner": b"me", "lease_ms": b"2500", "kept_ms": b"100000"}
    assert names == [QUEUE, RECORD + "0199"]
    assert argv == same | {"state": b"running", "fields": b"0"}
    over = Over(JobState.DONE, "ok", Result(200, (), b"said"))
    _, argv = await noting.by_name("jobs/move", jobs.end("acme", "0199", "me", over))
    assert argv == same | {"state": b"done", "fields": b"%d" % len(ended(over))}
    names, argv = await noting.by_name("jobs/look", jobs.find("acme", "0199"))
    assert (names, argv) == ([QUEUE, RECORD + "0199"], {})
    names, argv = await noting.by_name("jobs/hurry", jobs.hurry())
    assert names == [of_all("turns")]
    assert argv == {"within_us": b"%d" % HURRY_US, "most": b"%d" % HURRIED}
    names, argv = await noting.by_name("jobs/count", jobs.count())
    assert names == [of_all("open"), of_all("running")]
    assert argv == {"max_age_us": b"1000000000", "most": b"%d" % OVERDUE}


async def test_the_stream_and_its_group_are_those_of_the_header(
    noting: Noting, valkey_url: str
) -> None:
    await noting.jobs.add(JOB, None, look_in_us=0)
    claimed = await noting.jobs.claim("acme", "me")
    assert isinstance(claimed, Claimed)
    with redis.Redis.from_url(valkey_url, decode_responses=True) as client:
        [group] = client.xinfo_groups(QUEUE)
        assert (group["name"], group["pending"], group["consumers"]) == ("runners", 1, 1)
        [entry] = client.xrange(QUEUE)
        assert entry[1] == {"job": "0199"}
        await noting.jobs.end("acme", "0199", "me", Over(JobState.DONE, "ok"))
        assert client.xlen(QUEUE) == 0
        assert client.xpending(QUEUE, "runners")["pending"] == 0
        assert client.hget(RECORD + "0199", "body") is None


@pytest.mark.parametrize(
    ("name", "statuses"),
    [
        ("jobs/place", {"1": "noted", "0": "no room"}),
        ("jobs/add", {"1": "queued", "2": "known", "0": "no room"}),
        ("jobs/claim", {"1": "claimed", "2": "claimed from an owner that is gone",
                       "0": "nothing to claim"}),
        ("jobs/move", {"1": "moved", "0": "not in that state", "-1": "not known"}),
        ("jobs/look", {"1": "found", "0": "not known"}),
        ("jobs/turn", {"1": "changed", "0": "left alone"}),
    ],
)  # fmt: skip
def test_the_headers_tell_what_each_reply_means(name: str, statuses: dict[str, str]) -> None:
    assert read_header(name).statuses == statuses
