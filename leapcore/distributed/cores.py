"""How many cores this process may use."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> float:
    """Cores that this process may use: its affinity, and the quota of its control group (a container's)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([allowed, *_quotas()])


def cores_each(sharers: int = 1) -> int:
    """Whole cores for each of some processes that share the usable ones; at least one."""
    return max(1, int(usable_cores() / sharers))


def _quotas() -> Iterator[float]:
    """Cores' worth of time that control groups grant, version 2 and 1."""
    own = re.search(r"^0::/(.*)$", _text(Path("/proc/self/cgroup")), re.MULTILINE)
    for folder in {_CGROUP, _CGROUP / (own[1] if own else "")}:
        if found := re.match(r"(\d+) (\d+)", _text(folder / "cpu.max")):
            yield int(found[1]) / int(found[2])
    quota, period = (_text(_CGROUP / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    if quota.strip().isdigit() and period.strip().isdigit():
        yield int(quota) / int(period)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
