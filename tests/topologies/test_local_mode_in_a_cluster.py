"""A cluster loses a shard: only its accounts are on local shares, and they are charged later."""

import asyncio
from pathlib import Path

from sidecar.core.kinds import QuotaLimit
from sidecar.core.model import Account, Claim
from tests.support.stores.clusters import ACluster
from tests.support.stores.local_stage import a_sidecar
from tests.support.stores.requests import an_account, slot_of_account
from tests.support.stores.site import ask

QUOTA = QuotaLimit("monthly", "requests", 100, "month", 100)
ONE = (Claim(QUOTA, 1, False),)


def in_another_shard(cluster: ACluster, account: Account) -> Account:
    """An account of another shard."""
    slots = cluster.slots_of(cluster.master_of(slot_of_account(account)))
    every = map(an_account, range(1, 1_000))
    return next(one for one in every if slot_of_account(one) not in slots)


async def test_accounts_of_a_lost_shard_are_local_and_charged_to_its_replica(
    cluster: ACluster, tmp_path: Path
) -> None:
    lost = an_account(0)
    other = in_another_shard(cluster, lost)
    master = cluster.master_of(slot_of_account(lost))
    async with a_sidecar(cluster.url, tmp_path / "journal", timeout_s=1) as one:
        store = one.store
        for account in (lost, other):
            for _ in range(40):
                await store.reserve(account, "k1", ONE, when_down="local")
        await asyncio.to_thread(ask, master, "WAIT", 1, 5_000)
        await asyncio.to_thread(cluster.site.kill, master)
        granted = []
        for _ in range(70):
            answer = await store.reserve(lost, "k1", ONE, when_down="local")
            granted.append(answer.granted)
            assert answer.local
            real = await store.reserve(other, "k1", ONE, when_down="local")
            assert not real.local
        assert granted.count(True) == 60
        assert not store.mode.all_local
        await one.until_back()
        for account, expected in ((lost, 100), (other, 100)):
            assert (await store.redis.peek(account, "k1", ONE)).used == (expected,)
