"""keys rotate, accounts show and delete, and checks against the plan file, on a real Valkey."""

import asyncio
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import redis

from sidecar.core.identity import key_digest
from sidecar.core.model import Key
from sidecar.errors import StoreUnavailable
from sidecar.stores import PlanFiles, RedisDirectory, Wire, connect, keys

DAY_S = 86_400
PLANS = Path(__file__).parents[2] / "examples" / "plans.yaml"


def find(url: str, secret: str) -> Key | None:
    """The API key of this secret, as a sidecar reads it."""

    async def read() -> Key | None:
        wire = Wire(url, timeout_s=1.0)
        await wire.start()
        try:
            return await RedisDirectory(wire, "qs", lambda _: None).find(
                key_digest(secret.encode())
            )
        finally:
            await wire.stop()

    return asyncio.run(read())


def create(sidecar: Any, url: str, *more: str) -> str:
    done = sidecar("keys", "create", "--account", "acme", "--id", "k1", "--plan", "pro",
                   "--redis", url, *more)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return str(done.stdout.strip())


def rotate(sidecar: Any, url: str, *more: str) -> Any:
    return sidecar("keys", "rotate", "--account", "acme", "--id", "k1", "--redis", url, *more)


def left_s(url: str, secret: str) -> int:
    client = redis.Redis.from_url(url)
    left = client.ttl(keys.credential("qs", key_digest(secret.encode()).hex()))
    client.close()
    return int(left)


def test_both_keys_work_until_the_grace_ends(sidecar: Any, valkey_url: str) -> None:
    old = create(sidecar, valkey_url, "--teams", "ads=40%", "--team", "ads")
    done = rotate(sidecar, valkey_url, "--new-id", "k2")
    assert done.returncode == 0, done.stderr
    new = done.stdout.strip()
    assert new not in done.stderr
    assert DAY_S - 60 < left_s(valkey_url, old) <= DAY_S
    found = find(valkey_url, old), find(valkey_url, new)
    assert [(key.id, key.team) for key in found if key] == [("k1", "ads"), ("k2", "ads")]
    listed = sidecar("keys", "list", "--redis", valkey_url).stdout
    assert "expires in 24 hours" in listed or "expires in 1 day" in listed


def test_without_grace_the_old_key_ends_at_once(sidecar: Any, valkey_url: str) -> None:
    old = create(sidecar, valkey_url)
    done = rotate(sidecar, valkey_url, "--grace", "0")
    assert done.returncode == 0, done.stderr
    assert find(valkey_url, old) is None
    assert find(valkey_url, done.stdout.strip()) is not None
    assert "k1 of account acme, which is revoked" in done.stderr


def test_grace_never_prolongs_a_key(sidecar: Any, valkey_url: str) -> None:
    old = create(sidecar, valkey_url, "--expires", "1h")
    assert rotate(sidecar, valkey_url, "--grace", "7d").returncode == 0
    assert left_s(valkey_url, old) <= 3_600


@pytest.mark.parametrize(
    ("more", "code", "error"),
    [
        (("--new-id", "k1"), 1, 'already has a key "k1"'),
        (("--grace", "soon"), 2, '--grace: "soon" is not a lifetime'),
        (("--account", "globex"), 1, 'account globex has no key "k1"'),
    ],
)
def test_a_rotation_that_cannot_be_changes_nothing(
    sidecar: Any, valkey_url: str, more: tuple[str, ...], code: int, error: str
) -> None:
    secret = create(sidecar, valkey_url)
    before = left_s(valkey_url, secret)
    done = rotate(sidecar, valkey_url, *more)
    assert (done.returncode, done.stdout) == (code, "")
    assert error in done.stderr
    assert left_s(valkey_url, secret) > before - 60
    assert sidecar("keys", "list", "--redis", valkey_url).stdout.count("\n") == 1


async def test_a_cached_key_ends_when_it_expires(valkey_url: str, sidecar: Any) -> None:
    secret = create(sidecar, valkey_url)
    digest = key_digest(secret.encode())
    client = redis.Redis.from_url(valkey_url)
    client.expire(keys.credential("qs", digest.hex()), 30)
    client.close()
    now = [0.0]
    wire = Wire(valkey_url, timeout_s=5.0)
    await wire.start()
    directory = RedisDirectory(wire, "qs", lambda _: None, now=lambda: now[0])
    assert await directory.find(digest) is not None
    now[0] = 29.0
    assert directory.cached(digest) is not None
    await wire.stop()
    assert await directory.find(digest) is not None, "it is trusted while Redis is unavailable"
    now[0] = 30.5
    assert directory.cached(digest) is None
    with pytest.raises(StoreUnavailable):
        await directory.find(digest)


def test_show_has_record_and_keys_but_no_secret(sidecar: Any, valkey_url: str) -> None:
    secret = create(sidecar, valkey_url, "--timezone", "Europe/Paris")
    shown = sidecar("accounts", "show", "acme", "--redis", valkey_url)
    assert shown.returncode == 0
    assert shown.stdout.startswith("account\tacme\nplan\tpro\ntimezone\tEurope/Paris\nkey\tk1\t")
    as_json = json.loads(
        sidecar("accounts", "show", "acme", "--json", "--redis", valkey_url).stdout
    )
    assert (as_json["account"], as_json["plan"]) == ("acme", "pro")
    assert as_json["keys"][0]["sha256"] == key_digest(secret.encode()).hex()
    assert secret not in shown.stdout
    none = sidecar("accounts", "show", "globex", "--redis", valkey_url)
    assert (none.returncode, none.stdout) == (1, "")


def test_delete_asks_first_and_leaves_the_counters(sidecar: Any, valkey_url: str) -> None:
    secret = create(sidecar, valkey_url)
    client = redis.Redis.from_url(valkey_url, decode_responses=True)
    client.hset("qs:{acme}:state", "q/monthly", "1")
    asked = sidecar("accounts", "delete", "acme", "--redis", valkey_url)
    assert (asked.returncode, asked.stdout) == (2, "")
    assert "revokes 1 API key" in asked.stderr
    assert find(valkey_url, secret) is not None
    before = client.xlen("qs:changes")
    done = sidecar("accounts", "delete", "acme", "--yes", "--redis", valkey_url)
    assert done.returncode == 0, done.stderr
    assert find(valkey_url, secret) is None
    events = ["qs:{acme}:outbox", "qs:{outbox}:accounts"]
    assert sorted(client.keys()) == ["qs:changes", events[0], "qs:{acme}:state", events[1]]
    assert client.xlen("qs:changes") == before + 2, "sidecars are notified of key and account"
    again = sidecar("accounts", "delete", "acme", "--yes", "--redis", valkey_url)
    assert again.returncode == 1
    client.close()


@pytest.mark.parametrize(
    "command", [("keys", "create"), ("accounts", "set")], ids=["keys-create", "accounts-set"]
)
def test_a_plan_is_checked_against_the_plan_file(
    sidecar: Any, valkey_url: str, command: tuple[str, str]
) -> None:
    call = (*command, "--account", "zoe", "--redis", valkey_url)
    wrong = sidecar(*call, "--plan", "gold", "--plans", PLANS)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert 'no plan "gold"' in wrong.stderr
    assert "free, builder, pro, enterprise" in wrong.stderr
    assert sidecar("accounts", "list", "--redis", valkey_url).stdout == ""
    assert sidecar(*call, "--plan", "pro", SIDECAR_PLANS=str(PLANS)).returncode == 0
    unchecked = sidecar(*call, "--plan", "gold")
    assert unchecked.returncode == 0
    assert 'note: plan "gold" is not checked' in unchecked.stderr


async def keep_live(url: str, *texts: bytes) -> None:
    """Keep plan files in Redis, as running sidecars do."""
    wire = connect(url, timeout_s=5.0)
    await wire.start()
    for text in texts:
        await PlanFiles(wire, "qs").keep("sha256:" + hashlib.sha256(text).hexdigest(), text)
    await wire.stop()


OTHER_PLANS = (
    b'version: 1\nmeters: {requests: {unit: request}}\nroutes: [{id: rest, match: "/**"}]\n'
    b"plans: {gold: {limits: [{id: q, meter: requests, quota: 9/day}]}}\n"
)


@pytest.mark.parametrize("command", [("keys", "create"), ("accounts", "set")])
async def test_a_plan_is_checked_against_the_plan_files_of_running_sidecars(
    sidecar: Any, valkey_url: str, command: tuple[str, str]
) -> None:
    def call(account: str, plan: str) -> "subprocess.CompletedProcess[str]":
        flags = ("--account", account, "--plan", plan, "--redis", valkey_url)
        done: subprocess.CompletedProcess[str] = sidecar(*command, *flags)
        return done

    await keep_live(valkey_url, PLANS.read_bytes())
    wrong = await asyncio.to_thread(call, "zoe", "gold")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.splitlines() == [
        'error: --plan: the live plan file has no plan "gold"',
        "try: write one of: free, builder, pro, enterprise",
    ]
    of_file = await asyncio.to_thread(call, "fred", "pro")
    assert of_file.returncode == 1
    assert "account fred is in the plan file" in of_file.stderr
    fine = await asyncio.to_thread(call, "zoe", "pro")
    assert fine.returncode == 0
    assert "note" not in fine.stderr
    await keep_live(valkey_url, OTHER_PLANS, b"not a plan file")  # of another API
    for account, plan in (("zoe", "gold"), ("zoe", "pro"), ("fred", "gold")):
        assert (await asyncio.to_thread(call, account, plan)).returncode == 0
    neither = await asyncio.to_thread(call, "zoe", "silver")
    assert neither.returncode == 2
    assert "gold, free, builder" in neither.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("accounts", "set", "--suspend"),
        ("accounts", "set", "--plan", "pro"),
        ("keys", "create", "--plan", "pro"),
    ],
)
def test_an_account_of_the_plan_file_is_not_changed_in_redis(
    sidecar: Any, valkey_url: str, command: tuple[str, ...]
) -> None:
    done = sidecar(*command, "--account", "fred", "--plans", PLANS, "--redis", valkey_url)
    assert (done.returncode, done.stdout) == (1, "")
    assert "account fred is in the plan file" in done.stderr
    key = sidecar("keys", "create", "--account", "fred", "--plans", PLANS, "--redis", valkey_url)
    assert key.returncode == 0, "a key in Redis works for it"
