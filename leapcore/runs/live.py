"""A run as it is at this moment, read from its files by whoever looks, without torch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

from leapcore.errors import ReportError
from leapcore.runs import lock
from leapcore.runs.files import MATRIX, json_object, last_json_lines, text
from leapcore.runs.lines import Course
from leapcore.runs.names import CHECKPOINTS, LOCK, METRICS, START, SUMMARY, is_run

_RECENT = 10  # lines of figures that tell how fast a run is now


@dataclass(frozen=True)
class LiveRun:
    """What the files in a folder tell now; each file is read at most once.

    Attributes:
        folder: The run's, which need not exist yet.
        failed: Whether whoever started it, such as a bench, noted down that it failed.
    """

    folder: Path
    failed: bool = False

    @cached_property
    def holder(self) -> str:
        """Which process runs it, empty if none does."""
        return lock.holder(self.folder)

    @cached_property
    def start(self) -> dict[str, Any]:
        """``start.json``, empty before the first step."""
        return json_object(self.folder / START) or {}

    @cached_property
    def summary(self) -> dict[str, Any]:
        """``summary.json``, empty before the end."""
        return json_object(self.folder / SUMMARY) or {}

    @cached_property
    def _lines(self) -> list[dict[str, Any]]:
        """The last lines of figures and changes, the newest first."""
        return [line for line in last_json_lines(self.folder / METRICS) if isinstance(line.get("step"), int)]

    @cached_property
    def state(self) -> str:
        """starting, running, finished, interrupted, failed, dead (nobody runs it any more) or waiting."""
        ended = str(self.summary.get("status", ""))
        if self.holder:
            return "running" if self._begun else "starting"
        if ended == "finished":
            return ended
        if self.failed:
            return "failed"
        if ended in ("interrupted", "failed"):
            return ended
        return "dead" if is_run(self.folder) else "waiting"

    @property
    def reason(self) -> str:
        """Why it failed; empty if it did not, or nobody knows."""
        return str(self.summary.get("error") or "") if self.state == "failed" else ""

    @property
    def _begun(self) -> bool:
        """Whether the process at work has loaded everything; until then the files tell of an earlier one."""
        start, locked = _age(self.folder / START), _age(self.folder / LOCK)
        return start is not None and locked is not None and start <= locked

    @property
    def at_work(self) -> bool:
        """Whether there is more to come."""
        return bool(self.holder)

    @cached_property
    def course(self) -> Course:
        """What lines need to know of it."""
        try:
            facts = self.start
            layers = {name: model["layers"] for name, model in facts["teachers"].items()}
            return Course(facts["total_steps"], layers, facts["deepest"], facts["thresholds"])
        except (KeyError, TypeError, AttributeError):
            return Course()

    @property
    def name(self) -> str:
        """As the spec says, else the folder's."""
        return str(self.start.get("name") or self.summary.get("name") or self.folder.resolve().name)

    @property
    def step(self) -> int:
        """Finished steps, as far as they are told."""
        steps: list[int] = [line["step"] for line in self._lines]
        return max([self.summary.get("steps") or 0, *steps])

    @cached_property
    def figures(self) -> dict[str, Any]:
        """The newest of each figure of training, since not all are measured in every step."""
        recent = [line for line in self._lines if "loss" in line][:_RECENT]
        return {name: value for line in reversed(recent) for name, value in line.items()}

    @property
    def targets(self) -> dict[str, int]:
        """Each teacher's target layer from now on, counted from 1."""
        found: dict[str, int] = {}
        # Figures are of the steps before a change, even where they were written after it.
        for line in sorted(self._lines, key=lambda line: (line["step"], "target" in line), reverse=True):
            event = {line.get("teacher"): line["target"]} if "target" in line else {}
            for name, layer in (event or self.course.targets_in(line)).items():
                found.setdefault(str(name), layer)
        return found

    @property
    def accuracy(self) -> dict[str, float]:
        """The newest accuracies, as shares."""
        return dict(self.summary.get("accuracy") or {}) or next(
            ({"knn": line["knn"]} for line in self._lines if "knn" in line), {}
        )

    @property
    def seconds_left(self) -> float | None:
        """Of training at its speed now, evaluations left out; None where that is not known, or nothing."""
        speeds = [line["images_per_second"] for line in self._lines if "images_per_second" in line][:_RECENT]
        left = (self.course.total_steps - self.step) * self.start.get("batch_size", 0)
        known = self.state == "running" and left > 0 and speeds and mean(speeds) > 0
        return left / mean(speeds) if known else None

    @property
    def updated(self) -> float | None:
        """Seconds since it last wrote something."""
        ages = [_age(self.folder / name) for name in (METRICS, SUMMARY, START)]
        return min((age for age in ages if age is not None), default=None)

    @property
    def checkpoint(self) -> tuple[str, float] | None:
        """The newest checkpoint and its age in seconds."""
        name = text(self.folder / CHECKPOINTS / "latest").strip()
        age = _age(self.folder / CHECKPOINTS / name / "state.json") if name else None
        return None if age is None else (name, age)


def runs_in(folder: Path) -> list[LiveRun]:
    """The runs of a folder: a run's own, a benchmark's, or one that holds such folders.

    Raises:
        ReportError: There are none.
    """
    found = list(_own_runs(folder))
    if not found and folder.is_dir():
        found = [run for inner in sorted(folder.iterdir()) if inner.is_dir() for run in _own_runs(inner)]
    if not found:
        raise ReportError(
            f"'{folder}' holds no run" if folder.is_dir() else f"there is no folder '{folder}'",
            "Give the folder that a run or a benchmark writes, such as runs/NAME, or one with such folders.",
        )
    return found


def _own_runs(folder: Path) -> Iterator[LiveRun]:
    if is_run(folder):
        yield LiveRun(folder)
        return
    for cell in (json_object(folder / MATRIX) or {}).get("cells", ()):
        failed = (folder / "logs" / f"{cell['name']}.failed").exists()
        yield LiveRun(folder / "runs" / cell["name"], failed)


def _age(path: Path) -> float | None:
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return None
