"""How many cores this process may use."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> float:
    """Cores that this process may use: its affinity, and the CPU quotas of its control groups.

    joblib's counter reads the quota of a container alone, not one that systemd (``CPUQuota``) or a batch
    system sets on a group inside another, and rounds 2.5 cores up to 3.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([allowed, *_quotas()])


def cores_each(sharers: int = 1) -> int:
    """Whole cores for each of some processes that share the usable ones; at least one."""
    return max(1, int(usable_cores() / sharers))


def _quotas() -> Iterator[float]:
    """Cores' worth of time that this process's control groups grant, of version 2 and of version 1."""
    for group in _groups():
        if limit := re.match(r"(\d+) (\d+)", _text(group / "cpu.max")):
            yield int(limit[1]) / int(limit[2])
        quota, period = (_text(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
        if quota.isdigit() and period.isdigit():
            yield int(quota) / int(period)


def _groups() -> Iterator[Path]:
    """Folders of the control groups that limit this process: its own and all around it.

    A container sees its own group at the root, whatever the host calls it.
    """
    lines = re.findall(r"^\d+:(.*):/(.*)$", _text(Path("/proc/self/cgroup")), re.MULTILINE)
    for controller, root in (("", _CGROUPS), ("cpu", _CGROUPS / "cpu")):  # version 2 names no controllers
        path = next((path for controllers, path in lines if controller in controllers.split(",")), "")
        yield from (root / group for group in (PurePosixPath(path), *PurePosixPath(path).parents))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
