"""A cluster of real servers, created with the commands of `redis-cli --cluster`."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sidecar.stores.connection.slots import SLOTS
from tests.support.stores.binaries import Binary
from tests.support.stores.site import Site, a_site, ask, client, cluster_ports, empty, until

NODE_TIMEOUT_MS = 2000  # a machine under load may pause


class ACluster:
    """Masters with equal shares of the slots, and one replica each if asked for."""

    def __init__(self, site: Site, masters: int, replicas: bool, *options: str) -> None:
        self.site = site
        self._replicas = int(replicas)
        self.ports = cluster_ports(masters * (1 + replicas))
        for port in self.ports:
            site.start(
                port, *options, "--cluster-enabled", "yes",
                "--cluster-config-file", f"nodes-{port}.conf",
                "--cluster-node-timeout", str(NODE_TIMEOUT_MS),
                "--cluster-require-full-coverage", "no",
            )  # fmt: skip
        self._share_out(self.ports[:masters])
        for one, other in itertools.combinations(self.ports, 2):
            ask(one, "CLUSTER", "MEET", "127.0.0.1", other)
        self._until_all_know(len(self.ports))
        if replicas:
            for master, replica in zip(self.ports[:masters], self.ports[masters:], strict=True):
                ask(replica, "CLUSTER", "REPLICATE", self.id_of(master))
        self.until_whole()

    def _share_out(self, masters: list[int]) -> None:
        for number, port in enumerate(masters):
            first = SLOTS * number // len(masters)
            after = SLOTS * (number + 1) // len(masters)
            ask(port, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            ask(port, "CLUSTER", "ADDSLOTS", *range(first, after))

    @property
    def url(self) -> str:
        nodes = ",".join(f"127.0.0.1:{port}" for port in self.ports[:3])
        return f"redis+cluster://{nodes}"

    def id_of(self, port: int) -> str:
        return str(ask(port, "CLUSTER", "MYID"))

    def nodes(self, asked: int) -> list[dict[str, Any]]:
        """The reply of one node to CLUSTER NODES."""
        known: dict[str, dict[str, Any]] = ask(asked, "CLUSTER NODES")
        return [{"port": int(at.rpartition(":")[2]), **node} for at, node in known.items()]

    def masters(self) -> list[int]:
        """Ports of the masters with slots, as a running node knows them."""
        known = self.nodes(self.site.ports[0])
        return [
            node["port"]
            for node in known
            if "master" in node["flags"] and "fail" not in node["flags"] and node["slots"]
        ]

    def slots_of(self, port: int) -> set[int]:
        """The master's slots, as a running node knows them."""
        return {
            slot
            for first, last, master, *_ in ask(self.site.ports[0], "CLUSTER", "SLOTS")
            for slot in range(int(first), int(last) + 1)
            if int(master[1]) == port
        }

    def master_of(self, slot: int) -> int:
        return next(port for port in self.masters() if slot in self.slots_of(port))

    def move_slot(self, slot: int, to: int) -> None:
        """Move a slot with its keys, as resharding does."""
        with self.moving(slot, to) as source:
            self.move_keys(slot, source, to)

    @contextmanager
    def moving(self, slot: int, to: int) -> Iterator[int]:
        """Migrate a slot; its master. Missing keys are redirected to `to`, the new master."""
        source = self.master_of(slot)
        ids = {port: self.id_of(port) for port in (source, to)}
        ask(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[to])
        yield source
        for port in (to, source):
            ask(port, "CLUSTER", "SETSLOT", slot, "NODE", ids[to])

    def move_keys(self, slot: int, source: int, to: int) -> None:
        while keys := ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 100):
            ask(source, "MIGRATE", "127.0.0.1", to, "", 0, 5000, "KEYS", *keys)

    def flush(self) -> None:
        """Delete all keys and scripts."""
        for port in self.masters():
            empty(port, replicas=self._replicas)

    def until_whole(self) -> None:
        """Wait until all nodes run, know each other, and follow their masters."""
        self._until_all_know(len(self.site.ports))
        until(lambda: all(map(_whole, self.site.ports)), why=self._describe)

    def _until_all_know(self, count: int) -> None:
        def known(port: int) -> bool:
            nodes = self.nodes(port)
            bad = ("handshake", "fail", "noaddr")
            return len(nodes) == count and not any(
                word in node["flags"] for node in nodes for word in bad
            )

        until(lambda: all(map(known, self.site.ports)), why=self._describe)

    def _describe(self) -> str:
        return "\n".join(str(ask(port, "CLUSTER", "NODES")) for port in self.site.ports)


def _whole(port: int) -> bool:
    with client(port) as connection:
        state = connection.execute_command("CLUSTER INFO")["cluster_state"]
        role = connection.info("replication")
    return state == "ok" and (role["role"] == "master" or role["master_link_status"] == "up")


@contextmanager
def a_cluster(
    binary: Binary, *options: str, masters: int = 3, replicas: bool = True
) -> Iterator[ACluster]:
    with a_site(binary) as site:
        yield ACluster(site, masters, replicas, *options)
