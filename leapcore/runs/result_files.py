"""The files of a run's results: moving them aside and back, and cutting them off."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from leapcore.runs.names import FILES, FOLDERS


def came_before(line: str, step: int, *, trained: bool) -> bool:
    """Whether a line of metrics or maps was written before the checkpoint of a step; half a line was not."""
    try:
        content = json.loads(line)
        final = trained and content["step"] == step and not {"loss", "event"} & content.keys()
        return bool(content["step"] <= step and not final)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def step_of_skipped(line: str) -> float:
    """The step of a line in the log of skipped images; infinity for half a line."""
    whole = re.match(r"step (\d+): .*\n", line)
    return float(whole[1]) if whole else float("inf")


def move_results(source: Path, target: Path, *, out: bool = False) -> None:
    """Move a run's results to another folder.

    The spec comes first, and is the last to go ``out``: where it is shows what a kill left half moved.
    """
    names = (*FILES, *FOLDERS)[:: -1 if out else 1]
    existing = [name for name in names if (source / name).exists()]
    if existing:
        target.mkdir(exist_ok=True)
    for name in existing:
        (source / name).rename(target / name)


def delete_results(folder: Path) -> None:
    """Delete what a run wrote, and nothing else."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
