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
        told = json.loads(line)
        final = trained and told["step"] == step and not {"loss", "event"} & told.keys()
        return bool(told["step"] <= step and not final)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def step_of_skipped(line: str) -> float:
    """The step that a line of the log of skipped images tells of; half a line has none."""
    found = re.match(r"step (\d+): .*\n", line)
    return float(found[1]) if found else float("inf")


def move_results(source: Path, target: Path, *, out: bool = False) -> None:
    """Move a run's results to another folder.

    The spec comes first, and is the last to go ``out``: where it is tells what a kill left half moved.
    """
    found = [source / name for name in (*FILES, *FOLDERS)[:: -1 if out else 1] if (source / name).exists()]
    if found:
        target.mkdir(exist_ok=True)
    for item in found:
        item.rename(target / item.name)


def delete_results(folder: Path) -> None:
    """Delete what a run wrote, and nothing else."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
