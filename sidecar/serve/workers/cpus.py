"""The number of CPUs that this process may use: its affinity, and the quota of its cgroups."""

import math
import os
from pathlib import Path, PurePosixPath

_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def allowed_cpus(root: Path = _ROOT, own: Path = _OWN) -> int:
    """CPUs, at least 1. A container's `cpu` limit shows in the quota only and is rounded up."""
    return max(1, min([len(os.sched_getaffinity(0)), *_quotas(root, own)]))


def _quotas(root: Path, own: Path) -> list[int]:
    """Quotas of this process's cgroup and of each above it (cgroups(7)), version 2 and 1."""
    quotas = []
    for group in _groups(own):
        quotas += _quota_v2(root / group / "cpu.max")
    v1 = root / "cpu"
    quota, period = _number(v1 / "cpu.cfs_quota_us"), _number(v1 / "cpu.cfs_period_us")
    if quota and period and quota > 0:
        quotas.append(math.ceil(quota / period))
    return quotas


def _groups(own: Path) -> list[str]:
    for line in _text(own).splitlines():
        hierarchy, _, path = line.partition("::")
        if hierarchy == "0":
            group = PurePosixPath(path.lstrip("/"))
            return list(dict.fromkeys(str(one) for one in (group, *group.parents)))
    return ["."]


def _quota_v2(file: Path) -> list[int]:
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
