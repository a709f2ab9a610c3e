"""The cores of a process: its affinity, and the quotas of containers, systemd and batch systems."""

import os

import pytest

from leapcore.distributed import cores as module
from leapcore.distributed.cores import cores_each, usable_cores

V1 = {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({"cpu.max": "50000 100000"}, 0.5),
        ({"cpu.max": "max 100000"}, None),
        ({"/proc/self/cgroup": "0::/box\n", "box/cpu.max": "25000 100000"}, 0.25),
        (
            {
                "/proc/self/cgroup": "0::/user/job\n",
                "user/cpu.max": "25000 100000",
                "user/job/cpu.max": "max 100000",
            },
            0.25,
        ),
        ({"/proc/self/cgroup": "0::/host/name\n", "cpu.max": "75000 100000"}, 0.75),
        (V1, None),
        (V1 | {"cpu/cpu.cfs_quota_us": "75000\n"}, 0.75),
        (V1 | {"/proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n", "cpu/cpu.cfs_quota_us": "75000\n"}, 0.75),
        (
            V1
            | {
                "/proc/self/cgroup": "9:name=systemd:/\n4:cpu,cpuacct:/slurm/job\n0::/\n",
                "cpu/slurm/job/cpu.cfs_quota_us": "50000\n",
                "cpu/slurm/job/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
    ],
)
def test_quotas_of_control_groups(monkeypatch, files, cores):
    monkeypatch.setattr(
        module, "_text", lambda path: files.get(str(path).removeprefix("/sys/fs/cgroup/"), "")
    )
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert usable_cores() == (cores or allowed)


def test_whole_cores_for_each_of_several_processes(monkeypatch):
    monkeypatch.setattr(module, "usable_cores", lambda: 7.5)
    assert [cores_each(sharers) for sharers in (1, 2, 16)] == [7, 3, 1]
