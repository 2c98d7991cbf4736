"""How many CPUs this process may use: its affinity, and the quota of its control groups."""

import math
import os
from pathlib import Path, PurePosixPath

_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def allowed(root: Path = _ROOT, own: Path = _OWN) -> int:
    """At least 1. A container's `cpu` limit shows in the quota only, rounded up here."""
    return max(1, min([len(os.sched_getaffinity(0)), *_quotas(root, own)]))


def _quotas(root: Path, own: Path) -> list[int]:
    """The quota of our group and of each above it (cgroups(7); version 2, then version 1)."""
    found = []
    for group in _groups(own):
        found += _quota_of_two(root / group / "cpu.max")
    v1 = root / "cpu"
    quota, period = _number(v1 / "cpu.cfs_quota_us"), _number(v1 / "cpu.cfs_period_us")
    if quota and period and quota > 0:
        found.append(math.ceil(quota / period))
    return found


def _groups(own: Path) -> list[str]:
    for line in _text(own).splitlines():
        hierarchy, _, path = line.partition("::")
        if hierarchy == "0":
            ours = PurePosixPath(path.lstrip("/"))
            return list(dict.fromkeys(str(group) for group in (ours, *ours.parents)))
    return ["."]


def _quota_of_two(file: Path) -> list[int]:
    quota, _, period = _text(file).strip().partition(" ")
    if not (quota.isdecimal() and period.isdecimal() and int(period)):
        return []  # "max 100000": no quota
    return [math.ceil(int(quota) / int(period))]


def _number(file: Path) -> int | None:
    text = _text(file).strip()
    return int(text) if text.lstrip("-").isdecimal() else None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
