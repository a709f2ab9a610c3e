"""Which of a run's processes this one is, from the environment that its launcher set.

Known are torchrun and DeepSpeed's launcher (``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``), and SLURM's ``srun``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple


class Place(NamedTuple):
    """A process among those of a run.

    Attributes:
        rank: Its number among all, from 0.
        local_rank: Its number on its machine, which is also its GPU's.
        size: How many there are.
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1


def place(env: Mapping[str, str] = os.environ) -> Place:
    """This process's place; the only one where no launcher set another."""
    if all(env.get(name, "").isdecimal() for name in ("RANK", "WORLD_SIZE")):  # else another program's
        return Place(int(env["RANK"]), int(env.get("LOCAL_RANK", 0)), int(env["WORLD_SIZE"]))
    # SLURM_NTASKS is there in a batch script, too, which is one process; this is in a step only.
    if int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return Place(int(env["SLURM_PROCID"]), int(env["SLURM_LOCALID"]), int(env["SLURM_STEP_NUM_TASKS"]))
    return Place()


def meeting_point(env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """``MASTER_ADDR`` and ``MASTER_PORT``, where the processes meet.

    Under ``srun``, where nobody set them: the first machine, and a port that depends on the job.
    """
    host = env.get("MASTER_ADDR") or _first_host(env.get("SLURM_STEP_NODELIST", "localhost"))
    port = env.get("MASTER_PORT") or str(20000 + int(env.get("SLURM_JOB_ID", 0)) % 20000)
    return {"MASTER_ADDR": host, "MASTER_PORT": port}


def _first_host(hosts: str) -> str:
    """``node[03-07,9],login`` starts with ``node03``."""
    first = re.match(r"([^\[,]+)(?:\[(\d+)[^\]]*\]([^,]*))?", hosts)
    return "".join(part or "" for part in first.groups()) if first else hosts
