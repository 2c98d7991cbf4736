"""What one worker gets of the whole: its spool, its part of each bound, the spools left over.

One worker owns the spool directory itself, several own `worker-0`, `worker-1`… in it. So every
change of their number leaves spools without an owner; those are found here by what they hold.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sidecar.metering.segments import HEAD_NAME
from sidecar.settings import Settings

_WORKER: Final = "worker-"
_LEAST_SPOOL: Final = 1 << 20  # what the setting itself asks for at least


@dataclass(frozen=True, slots=True)
class WorkerShare:
    """What an App is given beside the settings. `worker`: its number, None when it is alone.

    `leftovers` are spools without an owner, to be shipped; `turns_in` the directory where sinks
    that share an output take turns, None when nothing is shared; `descriptor` a listening
    socket that was made before, to be served.
    """

    worker: int | None = None
    leftovers: tuple[Path, ...] = field(default=())
    turns_in: Path | None = None
    descriptor: int | None = None


def alone(settings: Settings) -> WorkerShare:
    """The share of the only process."""
    left = leftovers(settings.spool, 1)
    return WorkerShare(leftovers=left, turns_in=settings.spool if left else None)


def one_of(settings: Settings, worker: int, count: int, descriptor: int | None) -> WorkerShare:
    """The share of one of several. The first one ships what is left over."""
    left = leftovers(settings.spool, count) if worker == 0 else ()
    return WorkerShare(worker, left, settings.spool, descriptor)


def settings_of(settings: Settings, worker: int, count: int) -> Settings:
    """The settings of one of several: bounds of the whole are divided, rounding up."""
    return settings.model_copy(
        update={
            "spool": settings.spool / f"{_WORKER}{worker}",
            "spool_max_bytes": max(_LEAST_SPOOL, settings.spool_max_bytes // count),
            "journal_max_bytes": max(_LEAST_SPOOL, settings.journal_max_bytes // count),
            "max_connections": -(-settings.max_connections // count),
            "waiting_requests": -(-settings.waiting_requests // count),
            "waiting_bytes": -(-settings.waiting_bytes // count),
            "upstream_connections": -(-settings.upstream_connections // count),
            "shed_min": -(-settings.shed_min // count),
            "shed": _part_of(settings.shed, count),
        }
    )


def _part_of(shed: str, count: int) -> str:
    return str(-(-int(shed) // count)) if shed.isdecimal() else shed


def leftovers(spool: Path, count: int) -> tuple[Path, ...]:
    """Spools in this directory that none of `count` workers owns, in order. Empty ones too."""
    owned = {spool} if count == 1 else {spool / f"{_WORKER}{n}" for n in range(count)}
    inside = [path for path in spool.glob(f"{_WORKER}*") if path.name[len(_WORKER) :].isdecimal()]
    inside.sort(key=lambda path: int(path.name[len(_WORKER) :]))
    return tuple(path for path in (spool, *inside) if path not in owned and _is_spool(path))


def _is_spool(path: Path) -> bool:
    return (path / HEAD_NAME).exists() or any(path.glob("*.jsonl"))
