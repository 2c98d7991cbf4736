"""TLS to a single server, behind a sentinel and in a cluster, with client certificates."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from sidecar.errors import SettingsError
from sidecar.metering.sinks.redis import RedisSink
from sidecar.stores import RedisLimitStore, connect, keys
from sidecar.stores.admin import Admin
from sidecar.stores.connection.slots import SLOTS
from tests.support.certificate_authority import Authority, Pair
from tests.support.events import an_event
from tests.support.stores.binaries import with_tls
from tests.support.stores.requests import an_account, claims, connected
from tests.support.stores.sentinels import NAME
from tests.support.stores.site import Site, a_site, ask, cluster_ports, until

pytestmark = pytest.mark.skipif(
    with_tls() is None, reason="no server with TLS is installed; Debian's redis-tools has one"
)


class Served:
    """Servers with a TLS port, and a plain port for the tests."""

    def __init__(self, site: Site, directory: Path) -> None:
        self._site = site
        self.authority = Authority(directory)
        self.ours = self.authority.issue("sidecar")
        theirs = self.authority.issue("redis")
        self._tls = {
            "tls-cert-file": str(theirs.cert),
            "tls-key-file": str(theirs.key),
            "tls-ca-cert-file": str(self.authority.cert),
            "tls-auth-clients": "yes",
            "tls-replication": "yes",
        }

    def start(self, *options: str) -> tuple[int, int]:
        """Start a server; its plain port and its TLS port."""
        port, secure = cluster_ports(2)
        given = self._tls | {"tls-port": str(secure)}
        flags = [part for name, value in given.items() for part in (f"--{name}", value)]
        self._site.start(port, *flags, "--bind", "127.0.0.1", "127.0.0.2", *options)
        return port, secure

    def watch(self, master: int) -> int:
        """Start a sentinel of this master; its TLS port."""
        port, secure = cluster_ports(2)
        given = self._tls | {"tls-port": str(secure)}
        lines = [f"{name} {value}" for name, value in given.items()]
        lines.append(f"sentinel monitor {NAME} 127.0.0.1 {master} 1")
        self._site.start(port, *lines, mode="sentinel")
        return secure

    def query(self, *, ca: Path | None = None, pair: Pair | None = None) -> str:
        pair = pair or self.ours
        given = f"?ssl_ca_certs={ca or self.authority.cert}"
        return f"{given}&ssl_certfile={pair.cert}&ssl_keyfile={pair.key}"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    binary = with_tls()
    assert binary is not None
    with a_site(binary) as site:
        yield Served(site, tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def single(served: Served) -> int:
    return served.start()[1]


@pytest.fixture(params=["single", "sentinel", "cluster"])
def url(request: pytest.FixtureRequest, served: Served) -> str:
    if request.param == "cluster":
        port, secure = served.start("--cluster-enabled", "yes", "--tls-cluster", "yes")
        ask(port, "CLUSTER", "ADDSLOTS", *range(SLOTS))
        until(lambda: ask(port, "CLUSTER INFO")["cluster_state"] == "ok")
        return f"rediss+cluster://127.0.0.1:{secure}{served.query()}"
    _, secure = served.start()
    if request.param == "sentinel":
        return f"rediss+sentinel://127.0.0.1:{served.watch(secure)}/{NAME}{served.query()}"
    return f"rediss://127.0.0.1:{secure}/0{served.query()}"


async def test_store_sink_and_admin_work_over_tls(url: str) -> None:
    async with connected(url) as redis:
        assert redis.up, redis.last_error
        store = RedisLimitStore(redis)
        for count in (1, 2, 3):
            assert (await store.reserve(an_account(1), "k1", claims())).used == (count,)
    sink = RedisSink(url, keys.events("qs"))
    await sink.send([orjson.dumps(an_event(1))])
    await sink.close()
    await asyncio.to_thread(administer, url)


def administer(url: str) -> None:
    with Admin(url, "qs") as admin:
        admin.set_account("acme", plan="pro")
        assert [row.id for row in admin.list_accounts()] == ["acme"]


async def test_a_server_with_a_certificate_of_another_authority_is_refused(
    served: Served, single: int, tmp_path: Path
) -> None:
    query = served.query(ca=Authority(tmp_path, "stranger").cert)
    async with connected(f"rediss://127.0.0.1:{single}/0{query}") as redis:
        assert not redis.up
        assert "certificate is not valid here" in redis.last_error


async def test_a_client_without_a_certificate_is_refused(served: Served, single: int) -> None:
    url = f"rediss://127.0.0.1:{single}/0?ssl_ca_certs={served.authority.cert}"
    async with connected(url) as redis:
        assert not redis.up
        assert redis.last_error.startswith(f"127.0.0.1:{single}")


async def test_a_host_that_is_not_in_the_certificate_is_refused_if_names_are_checked(
    served: Served, single: int
) -> None:
    url = f"rediss://127.0.0.2:{single}/0{served.query()}"
    async with connected(url) as redis:
        assert not redis.up
        assert "certificate is not valid here" in redis.last_error
    async with connected(f"{url}&ssl_check_hostname=false") as redis:
        assert redis.up, redis.last_error


def test_invalid_tls_files_are_a_settings_error(served: Served, tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("no certificate")
    for query in (
        served.query(ca=missing),
        served.query(ca=nonsense),
        served.query(pair=Pair(missing, missing)),
        served.query(pair=Pair(served.ours.cert, nonsense)),
    ):
        for kind in ("rediss", "rediss+cluster"):
            with pytest.raises(SettingsError, match="--redis: invalid TLS files"):
                connect(f"{kind}://127.0.0.1:1{query}")
