"""The shares of workers, orphan spools, and the number of CPUs."""

from pathlib import Path

import pytest

from sidecar.serve.share import (
    find_orphan_spools,
    single_share,
    worker_settings,
    worker_share,
)
from sidecar.serve.workers.cpus import allowed_cpus
from sidecar.settings import Settings


def settings(spool: Path, **flags: str) -> Settings:
    return Settings.load({"plans": "p", "upstream": "http://a", "spool": str(spool), **flags})


def a_spool(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "head.json").write_text("{}")
    return path


def test_bounds_are_divided_among_workers(tmp_path: Path) -> None:
    whole = settings(
        tmp_path,
        max_connections="10",
        upstream_connections="5",
        spool_max_bytes=str(9 << 20),
        shed="100",
    )
    parts = [worker_settings(whole, number, 3) for number in range(3)]
    assert [part.spool for part in parts] == [tmp_path / f"worker-{n}" for n in range(3)]
    assert {part.max_connections for part in parts} == {4}
    assert {part.upstream_connections for part in parts} == {2}
    assert {part.spool_max_bytes for part in parts} == {3 << 20}
    assert {(part.shed, part.shed_min) for part in parts} == {("34", 7)}
    assert worker_settings(settings(tmp_path), 0, 3).shed == "adaptive"
    assert {part.source for part in parts} == {whole.source}
    assert worker_settings(settings(tmp_path, spool_max_bytes=str(1 << 20)), 0, 3).spool_max_bytes


def test_a_single_process_uses_the_spool_directory_itself(tmp_path: Path) -> None:
    a_spool(tmp_path / "spool")
    share = single_share(settings(tmp_path / "spool"))
    assert (share.worker, share.orphan_spools, share.lock_directory) == (None, (), None)


def test_worker_0_ships_the_orphan_spools(tmp_path: Path) -> None:
    spool = a_spool(tmp_path / "spool")
    made = [a_spool(spool / f"worker-{number}") for number in (0, 1, 2, 10)]
    (spool / "worker-7").mkdir()  # empty
    a_spool(spool / "worker-old")  # not a worker
    assert find_orphan_spools(spool, 1) == tuple(made)
    assert find_orphan_spools(spool, 2) == (spool, *made[2:])
    assert find_orphan_spools(spool, 11) == (spool,)
    whole = settings(spool)
    assert worker_share(whole, 0, 2, None).orphan_spools == (spool, *made[2:])
    assert worker_share(whole, 1, 2, None).orphan_spools == ()
    assert single_share(whole).lock_directory == spool  # two spools, one output


@pytest.mark.parametrize("listen", ["127.0.0.1:8080", "[::1]:0", "unix:/run/x.sock"])
def test_settings_as_flags_lose_nothing(tmp_path: Path, listen: str) -> None:
    given = settings(
        tmp_path,
        listen=listen,
        redis="redis://u:hunter2@h:1/3",
        sinks="stdout,file:/x/y,redis",
        access_log="true",
        idle_timeout_s="0.25",
        tls_cert="c",
        tls_key="k",
        workers="3",
        upstream="http://[::1]:3000",
    )
    assert Settings.load(given.as_flags()) == given


def test_cpus_are_bounded_by_the_affinity_and_every_quota(tmp_path: Path) -> None:
    own, root = tmp_path / "own", tmp_path / "cgroup"
    (root / "pod" / "box").mkdir(parents=True)
    own.write_text("1:cpu:/x\n0::/pod/box\n")
    unlimited = allowed_cpus(root, own)
    assert unlimited >= 1
    (root / "pod" / "box" / "cpu.max").write_text("max 100000\n")
    assert allowed_cpus(root, own) == unlimited
    (root / "pod" / "cpu.max").write_text("50000 100000\n")  # half a CPU, rounded up
    assert allowed_cpus(root, own) == 1


@pytest.mark.parametrize(("quota", "cpus"), [("-1", None), ("150000", 2), ("100", 1)])
def test_cpus_are_bounded_by_quotas_of_cgroups_version_1(
    tmp_path: Path, quota: str, cpus: int | None
) -> None:
    own, root = tmp_path / "own", tmp_path / "cgroup"
    (root / "cpu").mkdir(parents=True)
    own.write_text("2:cpu:/\n")
    unlimited = allowed_cpus(root, own)
    (root / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (root / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert allowed_cpus(root, own) == min(unlimited, cpus or unlimited)
