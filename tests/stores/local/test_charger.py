"""Sums whose answer was lost: they are charged before the key's next command."""

from urllib.parse import urlsplit

from sidecar.core.model import Account, Claim
from sidecar.stores.local.charger import Charger
from sidecar.stores.redis import RedisLimitStore
from sidecar.stores.scripts import load
from tests.support.events import until
from tests.support.stores.local_stage import a_quota, used
from tests.support.stores.wire_ends import a_cable, a_wire

ACME = Account("acme", "pro")
QUOTA = a_quota(100)


async def test_I5_a_sum_without_an_answer_is_sent_again_before_the_next_command(
    valkey_url: str,
) -> None:
    async with (
        a_cable(urlsplit(valkey_url).port or 0) as (cable, port),
        a_wire(f"redis://127.0.0.1:{port}/0") as wire,
    ):
        store = RedisLimitStore(wire, "qs")
        await wire.execute(load("limits/charge").load_command())
        now_us = (await store.peek(ACME, "k1", (Claim(QUOTA, 0, forced=False),))).now_us
        since_us = store.commands.window(QUOTA, ACME, now_us).start
        charger = Charger(wire, store.commands, "qs", lambda: None)
        claims = [(Claim(QUOTA, 3, forced=True), since_us, 0)]
        charger.add(ACME, "k1", "journal", 1, now_us, claims)
        cable.cut()  # before the answer
        await until(lambda: charger.delayed)
        assert charger.uncharged == 1
        cable.mend()
        await until(lambda: wire.up)
        charger.charge_first("acme", "k1")
        await until(lambda: not charger.uncharged)
        assert not charger.delayed
    assert used(valkey_url, QUOTA) == 3
