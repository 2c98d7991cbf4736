"""Whether Redis may evict keys: a limit whose counter is evicted starts again from zero."""

import asyncio
from typing import Final

from sidecar.errors import StoreUnavailable
from sidecar.logs import logger
from sidecar.stores.connection.connect import Connection
from sidecar.stores.connection.link import encode

log = logger("stores")

CHECK_EVERY_S: Final = 60.0
RETRY_S: Final = 1.0  # until Redis has answered once
SAFE: Final = "noeviction"


async def eviction_policy(wire: Connection) -> str | None:
    """The policy under which Redis evicts keys; "noeviction" if it never does.

    None: this user may not ask, so the policy is unknown. In a cluster, each master is asked, and
    the first policy that evicts counts. Raises StoreUnavailable if one of them does not answer,
    unless another one evicts.
    """
    replies = await asyncio.gather(
        *(wire.execute(encode("INFO", "memory"), slot=slot) for slot in wire.shards or (0,)),
        return_exceptions=True,
    )
    failures = [reply for reply in replies if isinstance(reply, StoreUnavailable)]
    policies = [_policy(reply) for reply in replies if not isinstance(reply, StoreUnavailable)]
    evicting = [policy for policy in policies if policy not in (SAFE, None)]
    if failures and not evicting:
        raise failures[0]
    if evicting:
        return evicting[0]
    return None if None in policies else SAFE


def _policy(reply: object) -> str | None:
    """The policy in the reply of one server."""
    if not isinstance(reply, bytes):
        return None
    lines = (line.partition(":") for line in reply.decode(errors="replace").splitlines())
    fields = {name: value for name, _, value in lines}
    if fields.get("maxmemory", "0") == "0":  # no bound on memory, so nothing is evicted
        return SAFE
    return fields.get("maxmemory_policy")


class EvictionWatch:
    """Checks the policy now and then. `warning` is for people; "" if Redis keeps its keys."""

    def __init__(self, wire: Connection) -> None:
        self._wire = wire
        self.warning = ""

    async def run(self) -> None:
        """Check until cancelled. A changed policy is logged once."""
        while True:
            try:
                self._apply(await eviction_policy(self._wire))
            except StoreUnavailable:
                await asyncio.sleep(RETRY_S)
                continue
            await asyncio.sleep(CHECK_EVERY_S)

    def _apply(self, policy: str | None) -> None:
        risky = policy is not None and policy != SAFE
        warning = (
            f"redis: maxmemory-policy {policy} may evict counters; set it to {SAFE}"
            if risky
            else ""
        )
        if warning and warning != self.warning:
            log.warning(
                "redis_may_evict",
                policy=policy,
                remedy=f"set maxmemory-policy to {SAFE}, and give Redis enough memory",
            )
        self.warning = warning
