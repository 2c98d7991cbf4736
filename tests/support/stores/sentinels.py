"""A master, its replicas, and the sentinels that watch them."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from tests.support.stores.binaries import Binary
from tests.support.stores.site import Site, a_site, ask, client, cluster_ports, empty, until

NAME = "main"
DOWN_AFTER_MS = 1500  # a machine under load may pause
# SENTINEL DEBUG, since Redis 7.0. Sentinels correct a server with a wrong role after four
# PUBLISH-PERIODs, by default 8 s. This includes a promoted server that not all know of. A sentinel
# that paused for 2 s does nothing for a TILT-PERIOD, by default 30 s.
QUICK = ("INFO-PERIOD", "200", "PUBLISH-PERIOD", "500", "ASK-PERIOD", "200", "TILT-PERIOD", "1000")


class Guarded:
    """One master with replicas, watched by sentinels."""

    def __init__(self, site: Site, sentinels: int, replicas: int, quick: bool) -> None:
        self.site = site
        ports = cluster_ports(1 + replicas + sentinels)
        self.servers, self.sentinels = ports[: 1 + replicas], ports[1 + replicas :]
        first = self.servers[0]
        site.start(first)
        for port in self.servers[1:]:
            site.start(port, "--replicaof", "127.0.0.1", str(first))
        for port in self.servers[1:]:
            until(lambda port=port: _follows(port, first))
        for port in self.sentinels:
            site.start(port, *self._watching(first), mode="sentinel")
        if quick:
            for port in self.sentinels:
                ask(port, "SENTINEL", "DEBUG", *QUICK)
        until(lambda: all(map(self._knows_all, self.sentinels)))

    def _watching(self, master: int) -> list[str]:
        quorum = len(self.sentinels) // 2 + 1
        return [
            f"sentinel monitor {NAME} 127.0.0.1 {master} {quorum}",
            f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {NAME} 2000",
        ]

    def _knows_all(self, sentinel: int) -> bool:
        with client(sentinel) as connection:
            known = connection.sentinel_master(NAME)
        others = (known["num-slaves"], known["num-other-sentinels"])
        return others == (len(self.servers) - 1, len(self.sentinels) - 1)

    @property
    def url(self) -> str:
        nodes = ",".join(f"127.0.0.1:{port}" for port in self.sentinels)
        return f"redis+sentinel://{nodes}/{NAME}"

    def master(self) -> int:
        """The port of the master, as a running sentinel names it."""
        return self._named_by(next(port for port in self.sentinels if port in self.site.ports))

    def _named_by(self, sentinel: int) -> int:
        return int(ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)[1])

    def fail_over(self) -> None:
        """Fail over, as an operator does before maintenance, until all follow another master."""
        old = self.master()
        until(lambda: self._moved_from(old), seconds=60)

    def _moved_from(self, old: int) -> bool:
        """Whether another server is the master.

        It repeats the request: a sentinel that learns late of a promotion undoes it.
        """
        if self._named_by(self.sentinels[0]) == old:
            with contextlib.suppress(redis.ResponseError):  # in progress, or no replica is ready
                ask(self.sentinels[0], "SENTINEL", "FAILOVER", NAME)
        return self._followed() not in (None, old)

    def until_whole(self) -> None:
        """Wait until all sentinels agree, and every other server follows the master."""
        until(lambda: self._followed() is not None)

    def _followed(self) -> int | None:
        """The master that all sentinels name, if every other server follows it."""
        named = {self._named_by(port) for port in self.sentinels}
        master = named.pop()
        others = [port for port in self.servers if port != master]
        whole = not named and all(_follows(port, master) for port in others)
        return master if whole else None

    def flush(self) -> None:
        """Delete all keys and scripts."""
        self.until_whole()
        empty(self.master(), replicas=len(self.servers) - 1)


def _follows(replica: int, master: int) -> bool:
    with client(replica) as connection:
        known = connection.info("replication")
    return (
        known["role"] == "slave"
        and known["master_port"] == master
        and known["master_link_status"] == "up"
    )


@contextmanager
def guarded(
    binary: Binary, *, sentinels: int = 3, replicas: int = 1, quick: bool = True
) -> Iterator[Guarded]:
    with a_site(binary) as site:
        yield Guarded(site, sentinels, replicas, quick)
