"""A shard of a cluster is lost: its accounts alone are counted without it, and charged later."""

import asyncio
from pathlib import Path

from sidecar.core.model import Account, Claim, QuotaLimit
from tests.support.stores.clusters import ACluster
from tests.support.stores.local_stage import a_sidecar
from tests.support.stores.requests import an_account, slot_of_account
from tests.support.stores.site import ask

QUOTA = QuotaLimit("monthly", "requests", 100, "month", 100)
CALL = (Claim(QUOTA, 1, False),)


def living_elsewhere(cluster: ACluster, account: Account) -> Account:
    """An account of another shard."""
    home = cluster.slots_of(cluster.master_of(slot_of_account(account)))
    every = map(an_account, range(1, 1_000))
    return next(one for one in every if slot_of_account(one) not in home)


async def test_only_its_accounts_are_counted_alone_and_all_is_charged_to_its_replica(
    cluster: ACluster, tmp_path: Path
) -> None:
    mourning = an_account(0)
    other = living_elsewhere(cluster, mourning)
    master = cluster.master_of(slot_of_account(mourning))
    async with a_sidecar(cluster.url, tmp_path / "journal", timeout_s=1) as one:
        store = one.store
        for account in (mourning, other):
            for _ in range(40):
                await store.reserve(account, "k1", CALL, when_down="local")
        await asyncio.to_thread(ask, master, "WAIT", 1, 5_000)
        await asyncio.to_thread(cluster.site.kill, master)
        granted = []
        for _ in range(70):
            answer = await store.reserve(mourning, "k1", CALL, when_down="local")
            granted.append(answer.granted)
            assert answer.alone
            real = await store.reserve(other, "k1", CALL, when_down="local")
            assert not real.alone
        assert granted.count(True) == 60
        assert not store.keeper.away
        await one.until_back()
        for account, expected in ((mourning, 100), (other, 100)):
            assert (await store.redis.peek(account, "k1", CALL)).used == (expected,)
