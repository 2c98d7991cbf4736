"""One worker's share of the whole: its spool, its part of each bound, and orphan spools.

A single process uses the spool directory itself; several workers use `worker-0`, `worker-1`… in
it. A change of their number leaves orphan spools, which no worker owns.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sidecar.metering.segments import HEAD_NAME
from sidecar.settings import Settings

_WORKER: Final = "worker-"
_MIN_BYTES: Final = 1 << 20  # the settings' own minimum for the spool and the journal


@dataclass(frozen=True, slots=True)
class WorkerShare:
    """What an App gets in addition to the settings.

    `worker`: its number; None for a single process. `orphan_spools`: spools to ship that no
    worker owns. `lock_directory`: holds the locks of sinks that share an output; None if no
    output is shared. `descriptor`: a socket that listens already; `decide_descriptor`: one for the
    decide port.
    """

    worker: int | None = None
    orphan_spools: tuple[Path, ...] = ()
    lock_directory: Path | None = None
    descriptor: int | None = None
    decide_descriptor: int | None = None


def single_share(settings: Settings) -> WorkerShare:
    """The share of a single process."""
    orphans = find_orphan_spools(settings.spool, 1)
    return WorkerShare(orphan_spools=orphans, lock_directory=settings.spool if orphans else None)


def worker_share(
    settings: Settings,
    worker: int,
    count: int,
    descriptor: int | None,
    decide_descriptor: int | None = None,
) -> WorkerShare:
    """The share of one of `count` workers. Worker 0 ships the orphan spools."""
    orphans = find_orphan_spools(settings.spool, count) if worker == 0 else ()
    return WorkerShare(worker, orphans, settings.spool, descriptor, decide_descriptor)


def worker_settings(settings: Settings, worker: int, count: int) -> Settings:
    """The settings of one of `count` workers: bounds are divided and rounded up."""
    return settings.model_copy(
        update={
            "spool": settings.spool / f"{_WORKER}{worker}",
            "spool_max_bytes": max(_MIN_BYTES, settings.spool_max_bytes // count),
            "journal_max_bytes": max(_MIN_BYTES, settings.journal_max_bytes // count),
            "max_connections": -(-settings.max_connections // count),
            "pending_header_bytes": -(-settings.pending_header_bytes // count),
            "waiting_requests": -(-settings.waiting_requests // count),
            "waiting_bytes": -(-settings.waiting_bytes // count),
            "upstream_connections": -(-settings.upstream_connections // count),
            "critical_connections": -(-settings.critical_connections // count),
            "small_bodies_bytes": -(-settings.small_bodies_bytes // count),
            "decide_open": -(-settings.decide_open // count),
            "max_websockets": -(-settings.max_websockets // count),
            "shed_min": -(-settings.shed_min // count),
            "shed": _divide_shed(settings.shed, count),
        }
    )


def _divide_shed(shed: str, count: int) -> str:
    return str(-(-int(shed) // count)) if shed.isdecimal() else shed


def find_orphan_spools(spool: Path, count: int) -> tuple[Path, ...]:
    """Spools in this directory that none of `count` workers owns, also empty ones, in order."""
    owned = {spool} if count == 1 else {spool / f"{_WORKER}{n}" for n in range(count)}
    inside = [path for path in spool.glob(f"{_WORKER}*") if path.name[len(_WORKER) :].isdecimal()]
    inside.sort(key=lambda path: int(path.name[len(_WORKER) :]))
    return tuple(path for path in (spool, *inside) if path not in owned and _is_spool(path))


def _is_spool(path: Path) -> bool:
    return (path / HEAD_NAME).exists() or any(path.glob("*.jsonl"))
