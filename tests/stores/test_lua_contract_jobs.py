"""The headers of the job scripts name the keys and arguments that `RedisJobs` sends."""

from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from typing import Any

import hiredis
import pytest
import redis

from sidecar.core.jobs.job import (
    ClaimedJob,
    IdempotencyKey,
    Job,
    JobOutcome,
    JobRequest,
    JobResult,
    JobState,
)
from sidecar.core.kinds import MICRO
from sidecar.stores import Wire, keys
from sidecar.stores.job_records import job_pairs, outcome_pairs, record_bytes
from sidecar.stores.job_terms import OVERHEAD, JobTerms
from sidecar.stores.jobs import (
    ACCOUNT_HIDDEN_US,
    GRACE_US,
    OVERDUE_LIMIT,
    WAKE_ALL_LIMIT,
    WAKE_ALL_WITHIN_US,
    RedisJobs,
)
from sidecar.stores.scripts import load
from tests.support.stores.lua_headers import OF_JOBS, read_header

TERMS = JobTerms(
    per_account=7, in_all=9, bytes_per_account=50_000, bytes_in_all=60_000, changes_per_minute=3,
    max_age_s=1_000, result_ttl_s=100, lease_s=2.5,
)  # fmt: skip
TTL = b"1100000"
REQUEST = JobRequest("POST", b"/x", b"a.test", "10.0.0.1", ((b"x-a", b"X-A: b\r\n"),), b"body")
JOB = Job(
    id="0199", account="acme", key="k1", digest=b"\x01" * 32, delivery="at-most-once",
    method="POST", target=b"/x", request=REQUEST,
)  # fmt: skip
QUEUE, RECORD = "qs:{acme}:jobs:shop:queue", "qs:{acme}:jobs:shop:job:"
STORED = ["qs:{acme}:jobs:shop:sizes", "qs:{acme}:jobs:shop:ended"]


class RecordingJobs:
    """A store, with the last arguments that it has sent to each script."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.jobs = RedisJobs(wire, "qs", "shop", TERMS)
        self.sent: dict[str, list[bytes]] = {}
        self._names = {load(name).sha: name for name in OF_JOBS}
        execute = wire.execute

        def record(command: bytes, *more: Any, **named: Any) -> Any:
            reader = hiredis.Reader()
            reader.feed(command)
            word, sha, *rest = reader.gets()
            if word == b"EVALSHA" and sha in self._names:
                self.sent[self._names[sha]] = rest
            return execute(command, *more, **named)

        wire.execute = record  # type: ignore[method-assign]

    async def by_name(
        self, name: str, request: Awaitable[Any]
    ) -> tuple[list[str], dict[str, bytes]]:
        """Return KEYS, and ARGV by the names of the header, of the script's last run."""
        await request
        count, *rest = self.sent.pop(name)
        header = read_header(name)
        names = [one.decode() for one in rest[: int(count)]]
        assert len(names) <= len(header.keys)
        argv = dict(zip(header.single, rest[int(count) :], strict=False))
        assert argv.keys() == header.single.keys()
        return names, argv


@pytest.fixture
async def recording(valkey_url: str) -> AsyncIterator[RecordingJobs]:
    wire = Wire(valkey_url, timeout_s=10)
    await wire.start()
    yield RecordingJobs(wire)
    await wire.stop()


def of_all(what: str) -> str:
    return keys.jobs_of_all("qs", "shop", what)


async def test_a_new_job_sends_what_the_headers_name(recording: RecordingJobs) -> None:
    add = recording.jobs.add(JOB, IdempotencyKey("name", "print"), due_in_us=17)
    names, argv = await recording.by_name("jobs/register", add)
    size = b"%d" % record_bytes(job_pairs(JOB))
    assert names == [of_all(what) for what in ("open", "accounts", "sizes", "ended")]
    assert argv == {
        "job": b"0199/acme", "account": b"acme", "most": b"9", "most_bytes": b"60000",
        "size": size, "grace_us": b"%d" % GRACE_US, "ttl_ms": TTL,
    }  # fmt: skip
    count, *rest = recording.sent["jobs/add"]
    assert [name.decode() for name in rest[: int(count)]] == [
        QUEUE, RECORD, *STORED, "qs:{acme}:jobs:shop:idempotency:name"
    ]  # fmt: skip
    argv = dict(zip(read_header("jobs/add").single, rest[int(count) :], strict=False))
    pairs = [str(one).encode() if not isinstance(one, bytes) else one for one in job_pairs(JOB)]
    assert argv == {
        "ttl_ms": TTL, "most": b"7", "most_bytes": b"50000", "kept_us": b"100000000",
        "size": size, "job": b"0199", "digest": b"print",
        "fields": b"%d" % len(pairs),
    }  # fmt: skip
    assert rest[int(count) + len(argv) :] == pairs
    count, *rest = recording.sent["jobs/schedule"]
    assert rest == [of_all("accounts").encode(), b"acme", b"sooner", b"17", TTL]


async def test_a_running_job_sends_what_the_headers_name(recording: RecordingJobs) -> None:
    jobs = recording.jobs
    await jobs.add(JOB, None, due_in_us=0)
    names, argv = await recording.by_name("jobs/take", jobs.take_due_accounts(3))
    assert (names, argv) == (
        [of_all("accounts")], {"most": b"3", "hide_us": b"%d" % ACCOUNT_HIDDEN_US, "ttl_ms": TTL}
    )  # fmt: skip
    names, argv = await recording.by_name("jobs/claim", jobs.claim("acme", "me"))
    assert (names, argv) == ([QUEUE, RECORD], {"owner": b"me", "lease_ms": b"2500"})
    assert recording.sent["jobs/schedule"][1:] == [
        of_all("running").encode(), b"0199/acme", b"any", b"2500000", TTL
    ]  # fmt: skip
    names, argv = await recording.by_name("jobs/move", jobs.renew(JOB, "me"))
    same = {
        "job": b"0199", "owner": b"me", "lease_ms": b"2500", "kept_ms": b"100000",
        "most_bytes": b"50000",
    }  # fmt: skip
    assert names == [QUEUE, RECORD, *STORED]
    assert argv == same | {"state": b"running", "fields": b"0"}
    outcome = JobOutcome(JobState.DONE, "ok", JobResult(200, (), b"said"))
    _, argv = await recording.by_name("jobs/move", jobs.end("acme", "0199", "me", outcome))
    assert argv == same | {"state": b"done", "fields": b"%d" % len(outcome_pairs(outcome))}
    _, *rest = recording.sent["jobs/weigh"]
    assert rest[:2] == [of_all("sizes").encode(), of_all("ended").encode()]
    weighed = dict(zip(read_header("jobs/weigh").single, rest[2:], strict=True))
    assert int(weighed.pop("size")) > OVERHEAD
    assert weighed == {
        "job": b"0199/acme", "state": b"ended", "most_bytes": b"60000", "ttl_ms": TTL
    }  # fmt: skip
    names, argv = await recording.by_name("jobs/rate", jobs.count_change("acme"))
    assert (names, argv) == (["qs:{acme}:jobs:shop:rate"], {"per_minute": b"3"})
    names, argv = await recording.by_name("jobs/find", jobs.find("acme", "0199"))
    assert (names, argv) == ([QUEUE, RECORD + "0199"], {})
    names, argv = await recording.by_name("jobs/wake_all", jobs.wake_all())
    assert names == [of_all("accounts")]
    assert argv == {"within_us": b"%d" % WAKE_ALL_WITHIN_US, "most": b"%d" % WAKE_ALL_LIMIT}
    names, argv = await recording.by_name("jobs/count", jobs.count())
    assert names == [of_all(what) for what in ("open", "running", "sizes", "ended")]
    assert argv == {
        "max_age_us": b"1000000000", "most": b"%d" % OVERDUE_LIMIT, "kept_us": b"100000000"
    }  # fmt: skip


async def test_the_stream_and_its_group_are_those_of_the_header(
    recording: RecordingJobs, valkey_url: str
) -> None:
    await recording.jobs.add(JOB, None, due_in_us=0)
    claimed = await recording.jobs.claim("acme", "me")
    assert isinstance(claimed, ClaimedJob)
    with redis.Redis.from_url(valkey_url, decode_responses=True) as client:
        [group] = client.xinfo_groups(QUEUE)
        assert (group["name"], group["pending"], group["consumers"]) == ("runners", 1, 1)
        [entry] = client.xrange(QUEUE)
        assert entry[1] == {"job": "0199"}
        await recording.jobs.end("acme", "0199", "me", JobOutcome(JobState.DONE, "ok"))
        assert client.xlen(QUEUE) == 0
        assert client.xpending(QUEUE, "runners")["pending"] == 0
        assert client.hget(RECORD + "0199", "body") is None


async def test_a_job_counts_what_redis_needs_for_it(
    recording: RecordingJobs, valkey_url: str
) -> None:
    """Python computes the size that the scripts keep, which is about what the server uses."""
    terms = JobTerms(per_account=500)
    store = RedisJobs(recording.wire, "qs", "shop", terms)
    with redis.Redis.from_url(valkey_url) as client:
        before = client.info("memory")["used_memory"]
        for number in range(400):
            key = IdempotencyKey(f"{number:064}", "p" * 64)
            await store.add(replace(JOB, id=f"{number:036}"), key, due_in_us=MICRO)
        used = client.info("memory")["used_memory"] - before
        sizes = client.hgetall("qs:{acme}:jobs:shop:sizes")
    counts = await store.count()
    one = record_bytes(job_pairs(replace(JOB, id=f"{0:036}")))
    assert int(sizes[b"total"]) == int(sizes[b"open"]) == counts.stored_bytes == 400 * one
    assert used / 2 < counts.stored_bytes < used * 2
    text = load("jobs/move").text.decode()
    assert f"local OVERHEAD = {OVERHEAD} " in text


@pytest.mark.parametrize(
    ("name", "statuses"),
    [
        ("jobs/register", {"1": "registered", "0": "no room", "-1": "no bytes"}),
        ("jobs/add", {"1": "queued", "2": "existing", "0": "no room", "-1": "no bytes"}),
        ("jobs/weigh", {"1": "fits", "0": "over the maximum"}),
        ("jobs/trim", {"1": "dropped", "0": "not an ended job"}),
        ("jobs/rate", {"1": "allowed", "0": "refused"}),
        ("jobs/claim", {"1": "claimed", "2": "claimed after a lost lease",
                       "0": "nothing to claim"}),
        ("jobs/move", {"1": "moved", "0": "not in that state", "-1": "not known"}),
        ("jobs/find", {"1": "found", "0": "not known"}),
        ("jobs/schedule", {"1": "changed", "0": "unchanged"}),
    ],
)  # fmt: skip
def test_the_headers_name_the_meaning_of_each_reply(name: str, statuses: dict[str, str]) -> None:
    assert read_header(name).statuses == statuses
