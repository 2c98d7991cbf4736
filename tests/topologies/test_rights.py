"""The rights in docs/reference/redis.md are enough for each user, and each of them is needed."""

import asyncio
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.resources import files
from pathlib import Path

import orjson
import pytest

from sidecar.core.identity import key_digest
from sidecar.core.jobs.job import (
    AcceptedJob,
    ClaimedJob,
    IdempotencyKey,
    Job,
    JobOutcome,
    JobRequest,
    JobState,
)
from sidecar.core.kinds import QuotaLimit
from sidecar.core.model import Pack
from sidecar.core.periods import window_at
from sidecar.errors import SidecarError
from sidecar.metering.sinks.redis import RedisSink
from sidecar.stores import Connection, Outbox, PlanFiles, RedisDirectory, RedisLimitStore, keys
from sidecar.stores.admin import Admin
from sidecar.stores.eviction import eviction_policy
from sidecar.stores.inspector import Inspector
from sidecar.stores.job_terms import JobTerms
from sidecar.stores.jobs import RedisJobs
from sidecar.stores.plan_file_reader import PlanFileReader
from sidecar.stores.rebuild import Change
from tests.support.events import an_event
from tests.support.stores.binaries import binaries
from tests.support.stores.clusters import ACluster
from tests.support.stores.requests import an_account, claims, connected
from tests.support.stores.sentinels import Guarded, guarded
from tests.support.stores.site import a_site, ask, cluster_ports

DOCS = Path(__file__).parents[2] / "docs" / "reference" / "redis.md"
SCRIPTS = files("sidecar.stores") / "lua"
SENTINEL_USER = "?sentinel_username=limited&sentinel_password=user-word"
ACCOUNT = an_account(1)


def documented() -> dict[str, list[str]]:
    """Rights by the name of the user."""
    rights: dict[str, list[str]] = {}
    name = ""
    for block in re.findall(r"^```text\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            name = line[:22].strip() or name
            rights.setdefault(name, []).extend(line[22:].split())
    return rights


RIGHTS = documented()


def allow(port: int, rights: list[str]) -> None:
    ask(port, "ACL", "SETUSER", "limited", "reset", "on", ">user-word", *rights)


def as_limited(url: str, query: str = "") -> str:
    return url.replace("://", "://limited:user-word@") + query


async def serve(url: str) -> None:
    """Use all commands of a sidecar. Raises SidecarError for the first refused one."""
    async with connected(url) as redis:
        store = RedisLimitStore(redis)
        assert (await store.reserve(ACCOUNT, "k1", claims())).granted
        await store.peek(ACCOUNT, "k1", claims())
        assert await eviction_policy(redis) is not None
        await follow(redis)
        await defer(redis)
        await record(redis)


async def record(redis: Connection) -> None:
    """The events of changes."""
    outbox = Outbox(redis, "qs", "me")
    assert await outbox.take() is not None
    await outbox.read("acme")
    await outbox.remove("acme", [b"none"])
    await outbox.retire("acme")
    assert not await PlanFiles(redis, "qs").renew("sha256:ab")


async def defer(redis: Connection) -> None:
    """A deferred job, from its acceptance to its webhook."""
    jobs = RedisJobs(redis, "qs", "shop", JobTerms(webhooks=True))
    request = JobRequest("GET", b"/x", b"a.test", "10.0.0.1", (), b"")
    job = Job(
        "0199",
        ACCOUNT.id,
        "k1",
        b"",
        "at-least-once",
        request.method,
        request.target,
        request=request,
    )
    assert await jobs.add(job, IdempotencyKey("name", "print"), due_in_us=0) == AcceptedJob(job.id)
    assert await jobs.find_by_key(ACCOUNT.id, "name") == (job.id, "print")
    assert await jobs.find(ACCOUNT.id, job.id) is not None
    assert await jobs.list_open(1) == [(job.id, ACCOUNT.id)]
    [turn] = await jobs.take_due_accounts(1)
    assert isinstance(await jobs.claim(ACCOUNT.id, "me"), ClaimedJob)
    assert await jobs.renew(job, "me")
    assert await jobs.requeue(job, "me")
    assert isinstance(await jobs.claim(ACCOUNT.id, "me"), ClaimedJob)
    assert (await jobs.count()).open == 1
    assert (
        await jobs.end(ACCOUNT.id, job.id, "me", JobOutcome(JobState.DONE, "ok")) is JobState.DONE
    )
    await jobs.schedule(turn, None)
    await jobs.wake_all()
    assert len(await jobs.take_due_webhooks(1)) == 1


async def follow(redis: Connection) -> None:
    directory = RedisDirectory(redis, "qs", lambda _: None)
    await directory.find(key_digest(b"unknown"))
    await directory._follow(await directory._follow(None))


async def ship(url: str) -> None:
    sink = RedisSink(url, keys.events("qs"))
    try:
        await sink.send([orjson.dumps(an_event(1))])
    finally:
        await sink.close()


def administer(url: str) -> None:
    with Admin(url, "qs") as admin:
        admin.set_account("acme", plan="pro")
        key_id, _ = admin.create_key("acme", random_bytes=os.urandom)
        admin.create_key("acme", random_bytes=os.urandom)
        assert {row.id for row in admin.list_accounts()} == {"acme"}
        assert key_id in {row.id for row in admin.list_keys()}
        new_id, _ = admin.rotate_key(
            "acme", key_id, random_bytes=os.urandom, grace=timedelta(hours=1)
        )
        admin.revoke_key("acme", new_id)
        admin.set_account("globex", plan="pro")
        admin.delete_account("globex")
        assert admin.has_account("acme")
        assert PlanFileReader(url, "qs").live() == []
        assert admin.grant(ACCOUNT, Pack("boost", "monthly", "requests", 9, "month"), "g1").new


def reconcile(url: str) -> None:
    """Use all commands of `sidecar reconcile` and `sidecar rebuild`."""
    with Inspector(url, "qs") as inspector:
        now_us = inspector.now_us()
        limit = QuotaLimit("monthly", "requests", 9, "month", 9)
        change = Change(limit, None, 3, 0, window_at(limit, ACCOUNT, now_us).start)
        assert inspector.rebuild(ACCOUNT, [change], "0", now_us).done
        assert ACCOUNT.id in set(inspector.accounts())
        account = inspector.read(ACCOUNT.id)
        assert account.state.states["q/monthly"].used == 3
        inspector.record(ACCOUNT.id)
        inspector.charged(ACCOUNT.id, "0a", "k1")


USERS: dict[str, Callable[[str], None]] = {
    "serve": lambda url: asyncio.run(serve(url)),
    "sink": lambda url: asyncio.run(ship(url)),
    "admin": administer,
    "reconcile": reconcile,
}


@pytest.fixture(scope="module")
def single() -> Iterator[int]:
    """The port of a server that only these tests use."""
    with a_site(binaries()[0]) as site:
        port = cluster_ports(1)[0]
        site.start(port)
        yield port


def clear(port: int) -> None:
    ask(port, "FLUSHALL")
    ask(port, "SCRIPT", "FLUSH")


def commands_of_scripts() -> set[str]:
    called = "".join(file.read_text() for file in Path(str(SCRIPTS)).rglob("*.lua"))
    return {f"+{name.lower()}" for name in re.findall(r"redis\.p?call\('(\w+)'", called)}


def test_the_commands_of_scripts_are_documented() -> None:
    by_hand = {
        "+info", "+ping", "+evalsha", "+script|load", "+time", "+hgetall", "+xread", "+xrevrange",
        "+lrange",
    }  # fmt: skip
    commands = {right for right in RIGHTS["serve"] if right.startswith("+")}
    assert commands == by_hand | commands_of_scripts()


@pytest.mark.parametrize("user", USERS)
def test_the_documented_rights_are_enough_and_all_are_needed(single: int, user: str) -> None:
    clear(single)
    allow(single, RIGHTS[user])
    url = as_limited(f"redis://127.0.0.1:{single}")
    USERS[user](url)
    of_other_scripts = commands_of_scripts() - {"+hmget", "+hset", "+pexpire", "+pttl"}
    for right in RIGHTS[user]:
        if user == "serve" and right in of_other_scripts:
            continue  # scripts use them; the test above compares
        clear(single)
        allow(single, [other for other in RIGHTS[user] if other != right])
        with pytest.raises((SidecarError, AssertionError)):
            USERS[user](url)
            pytest.fail(f"{user} does not need {right}")


def test_a_sidecar_with_read_only_rights_cannot_create_keys(single: int) -> None:
    clear(single)
    administer(f"redis://127.0.0.1:{single}")
    commands = [right for right in RIGHTS["serve"] if right.startswith("+")]
    allow(single, RIGHTS["serve, read only"] + commands)
    url = as_limited(f"redis://127.0.0.1:{single}")
    USERS["serve"](url)
    with pytest.raises(SidecarError, match="permission"):
        administer(url)


@contextmanager
def users_of(cluster: ACluster, rights: list[str]) -> Iterator[str]:
    """The cluster's URL for a user with these rights, which is deleted at the end."""
    for port in cluster.ports:
        allow(port, rights)
    try:
        yield as_limited(cluster.url)
    finally:
        for port in cluster.ports:
            ask(port, "ACL", "DELUSER", "limited")


@pytest.mark.parametrize("user", USERS)
def test_the_documented_rights_are_enough_on_a_cluster(cluster: ACluster, user: str) -> None:
    with users_of(cluster, RIGHTS[user] + RIGHTS[f"{user}, cluster"]) as url:
        USERS[user](url)


def test_on_a_cluster_a_sidecar_needs_each_right(cluster: ACluster) -> None:
    for right in set(RIGHTS["serve, cluster"]) - {"+asking"}:  # only for migrating slots
        rights = RIGHTS["serve"] + [one for one in RIGHTS["serve, cluster"] if one != right]
        with users_of(cluster, rights) as url, pytest.raises(SidecarError, match="NOPERM"):
            USERS["serve"](url)
            pytest.fail(f"serve does not need {right}")


@pytest.fixture(scope="module")
def watched() -> Iterator[Guarded]:
    with guarded(binaries()[0], sentinels=1, replicas=0, quick=False) as servers:
        yield servers


@pytest.mark.parametrize("user", USERS)
def test_the_documented_rights_are_enough_behind_sentinels(watched: Guarded, user: str) -> None:
    clear(watched.servers[0])
    allow(watched.servers[0], RIGHTS[user] + RIGHTS[f"{user}, sentinels"])
    (sentinel,) = watched.sentinels
    allow(sentinel, RIGHTS["on the sentinels"])
    USERS[user](as_limited(watched.url, SENTINEL_USER))


def test_behind_sentinels_a_sidecar_needs_each_right(watched: Guarded) -> None:
    (master,), (sentinel,) = watched.servers, watched.sentinels
    of_master = RIGHTS["serve"] + RIGHTS["serve, sentinels"]
    of_sentinel = [right for right in RIGHTS["on the sentinels"] if not right.endswith("masters")]
    for port, rights in ((sentinel, of_sentinel), (master, RIGHTS["serve, sentinels"])):
        for right in rights:
            allow(master, [other for other in of_master if (port, other) != (master, right)])
            allow(sentinel, [other for other in of_sentinel if (port, other) != (sentinel, right)])
            with pytest.raises(SidecarError, match="NOPERM"):
                USERS["serve"](as_limited(watched.url, SENTINEL_USER))
                pytest.fail(f"serve does not need {right}")
    with pytest.raises(SidecarError, match="WRONGPASS"):
        USERS["serve"](as_limited(watched.url, SENTINEL_USER + "-wrong"))
