"""A benchmark as a job array for SLURM."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

_SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --output={logs}/slurm-%A-%a.log
#SBATCH --signal=B:TERM@120
# Add what your cluster asks for, such as --gpus=1, --cpus-per-task and --time. The cells are shared out among
# the tasks, however many --array has; submit it again to go on with what is left.
cd {here}
exec {command} --part "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
"""


def script(name: str, cells: int, folder: Path, command: Sequence[str]) -> str:
    """The text to give to ``sbatch``.

    Args:
        name: The benchmark's.
        cells: How many there are; each becomes a task.
        folder: The benchmark's, which all machines see.
        command: What each task runs, without its part.
    """
    return _SCRIPT.format(
        name=name,
        last=cells - 1,
        logs=shlex.quote(str(folder / "logs")),
        here=shlex.quote(str(Path.cwd())),
        command=shlex.join(command),
    )
