"""A run, read from the files in its folder: of a run that is over as of one at work, without torch."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

from leapcore.plugins.events import CkaMap, RunReport, TargetChange
from leapcore.runs import lock
from leapcore.runs.json_files import read_json_lines, read_json_object, read_last_json_lines, read_text
from leapcore.runs.names import CHECKPOINTS, CKA_MAPS, LOCK, METRICS, SPEC, START, SUMMARY, is_run
from leapcore.runs.progress import ProgressLines
from leapcore.runs.records import as_record
from leapcore.runs.spec_models import SpecModel
from leapcore.runs.state import State

_RECENT = 10  # lines of figures that say how fast a run is now
_UNKNOWN_FLOPS = {"spent": math.nan, "baseline": math.nan, "saved": math.nan, "spent_by_part": {}}


@dataclass(frozen=True)
class Run:
    """A run as far as its files show it; each is read once, when something of it is first needed.

    Attributes:
        folder: The run's, which need not exist yet.
        failure_note: The file in which a benchmark notes why the run's last try failed.
        trust_lock_file: Whether, on a file system without locks, whoever left a lock's file is taken to be
            alive.
    """

    folder: Path
    failure_note: Path | None = None
    trust_lock_file: bool = True

    # How far it is. Of the figures only the end of their file is read, since it may be long.

    @cached_property
    def process(self) -> str:
        """Which other process runs it, such as ``process 7 on node03``; empty if none does."""
        return lock.holder(self.folder, trust_file=self.trust_lock_file)

    @cached_property
    def state(self) -> State:
        """How far it is."""
        if self.process:
            return State.RUNNING if self._is_loaded else State.STARTING
        if self.summary.status == State.FINISHED:
            return State.FINISHED
        if self.failure_note and self.failure_note.exists():
            return State.FAILED
        if self.summary.status in (State.INTERRUPTED, State.FAILED):
            return State(self.summary.status)
        return State.DEAD if is_run(self.folder) else State.WAITING

    @property
    def _is_loaded(self) -> bool:
        """Whether its process has taken up its work; until then the files are those of an earlier one."""
        start, locked = _age(self.folder / START), _age(self.folder / LOCK)
        return start is not None and locked is not None and start <= locked

    @property
    def error(self) -> str:
        """Why its last try failed; empty if it did not, or nobody knows."""
        if self.state is not State.FAILED:
            return ""
        noted = read_text(self.failure_note).strip() if self.failure_note else ""
        return noted or self.summary.error

    @cached_property
    def summary(self) -> RunReport:
        """What it achieved; an empty report before its end."""
        report = as_record(RunReport, read_json_object(self.folder / SUMMARY)) or RunReport()
        report.folder, report.flops = self.folder, {**_UNKNOWN_FLOPS, **report.flops}
        return report

    @cached_property
    def start(self) -> dict[str, Any]:
        """``start.json``, empty before the first step."""
        return read_json_object(self.folder / START) or {}

    @cached_property
    def progress(self) -> ProgressLines:
        """Writes lines on its progress."""
        return ProgressLines.from_file(self.start)

    @property
    def name(self) -> str:
        """As the spec says, else the folder's."""
        return str(self.start.get("name") or self.summary.name or self.folder.resolve().name)

    @cached_property
    def _last_lines(self) -> list[dict[str, Any]]:
        """The last lines of figures and changes, the newest first."""
        return [line for line in read_last_json_lines(self.folder / METRICS) if _has_step(line)]

    @property
    def steps(self) -> int:
        """Finished steps, as far as is known."""
        steps: list[int] = [line["step"] for line in self._last_lines]
        return max([self.summary.steps, *steps])

    @cached_property
    def figures(self) -> dict[str, Any]:
        """The newest of each figure of training, since not all are measured in every step."""
        recent = [line for line in self._last_lines if "loss" in line][:_RECENT]
        return {name: value for line in reversed(recent) for name, value in line.items()}

    @property
    def targets(self) -> dict[str, int]:
        """Each teacher's target layer from now on, counted from 1."""
        targets: dict[str, int] = {}
        # Figures are of the steps before a change, even where they were written after it.
        newest_first = sorted(
            self._last_lines, key=lambda line: (line["step"], "target" in line), reverse=True
        )
        for line in newest_first:
            change = {line.get("teacher"): line["target"]} if "target" in line else {}
            for name, layer in (change or self.progress.targets_in(line)).items():
                targets.setdefault(str(name), layer)
        return targets

    @property
    def accuracy(self) -> dict[str, float]:
        """The newest accuracies, as shares."""
        newest = ({"knn": line["knn"]} for line in self._last_lines if "knn" in line)
        return self.summary.accuracy or next(newest, {})

    @property
    def seconds_left(self) -> float | None:
        """Of training at its speed now, evaluations left out; None where that is not known, or nothing."""
        speeds = [line["images_per_second"] for line in self._last_lines if "images_per_second" in line]
        left = (self.progress.total_steps - self.steps) * self.start.get("batch_size", 0)
        recent = speeds[:_RECENT]
        known = self.state is State.RUNNING and left > 0 and recent and mean(recent) > 0
        return left / mean(recent) if known else None

    @property
    def updated(self) -> float | None:
        """Seconds since it last wrote something."""
        ages = [_age(self.folder / name) for name in (METRICS, SUMMARY, START)]
        return min((age for age in ages if age is not None), default=None)

    @property
    def checkpoint(self) -> tuple[str, float] | None:
        """The newest checkpoint and its age in seconds."""
        name = read_text(self.folder / CHECKPOINTS / "latest").strip()
        age = _age(self.folder / CHECKPOINTS / name / "state.json") if name else None
        return None if age is None else (name, age)

    # Its spec.

    @property
    def spec(self) -> str:
        """The resolved spec, as YAML."""
        return read_text(self.folder / SPEC)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The resolved spec's sections; none of one that is half written."""
        from ruamel.yaml import YAML

        from leapcore.spec.text import NOT_YAML

        try:
            sections = YAML(typ="safe").load(self.spec)
        except NOT_YAML:
            return {}
        return sections if isinstance(sections, dict) else {}

    @property
    def data(self) -> dict[str, Any]:
        """The spec's data section."""
        return self.settings.get("data") or {}

    @property
    def student_model(self) -> SpecModel:
        """The student, as the spec names it."""
        return as_record(SpecModel, self.settings.get("student")) or SpecModel()

    @property
    def teacher_models(self) -> dict[str, SpecModel]:
        """The teachers by name, as the spec has them; a single one is called ``teacher``."""
        sections = self.settings.get("teachers") or {"teacher": self.settings.get("teacher")}
        return {name: model for name, keys in sections.items() if (model := as_record(SpecModel, keys))}

    # Its whole way. The file of its figures is read from its beginning.

    @cached_property
    def _lines(self) -> list[dict[str, Any]]:
        return [line for line in read_json_lines(self.folder / METRICS) if _has_step(line)]

    @cached_property
    def changes(self) -> list[TargetChange]:
        """Every change of target, the first included."""
        return [change for line in self._lines if (change := target_change(line))]

    @cached_property
    def maps(self) -> list[tuple[int, CkaMap]]:
        """CKA maps, each with its step, in order of time."""
        lines = [line for line in read_json_lines(self.folder / CKA_MAPS) if _has_step(line)]
        maps = [(line["step"], cka) for line in lines if (cka := as_record(CkaMap, line))]
        return sorted(maps, key=lambda dated: dated[0])

    @property
    def teachers(self) -> list[str]:
        """Names of its teachers."""
        changed = dict.fromkeys(change.teacher for change in self.changes)
        return list(self.summary.teachers or changed or ["teacher"])

    def depth(self, teacher: str) -> int | None:
        """How many layers a teacher has, None if it is not known yet."""
        if (layers := self.summary.teachers.get(teacher, {}).get("layers")) is not None:
            return layers
        return next((len(cka.teacher_layers) for _, cka in self.maps if cka.teacher == teacher), None)

    def curve(self, figure: str) -> tuple[list[int], list[float]]:
        """A figure over the steps, as reports have it: steps and values, those that are numbers."""
        reports = (line for line in self._lines if "event" not in line)
        points = [(line["step"], line[figure]) for line in reports if _is_number(line.get(figure))]
        return [step for step, _ in points], [float(value) for _, value in points]

    def spent_at(self, steps: Sequence[int]) -> list[float]:
        """The FLOPs of training until each of these steps, between two reports by interpolation.

        NaN where the run did not report them.
        """
        known, spent = self.curve("flops_spent")
        if not known:
            return [math.nan] * len(steps)
        from numpy import interp

        return [float(flops) for flops in interp(steps, [0, *known], [0.0, *spent], right=math.nan)]

    def accuracy_at(self, step: int) -> dict[str, float]:
        """The accuracies that were measured after a step, as shares: all of the end's, kNN on the way."""
        if step == self.summary.steps and self.summary.accuracy:
            return self.summary.accuracy
        steps, shares = self.curve("knn")
        return {"knn": shares[steps.index(step)]} if step in steps else {}

    def alignment(self, teacher: str) -> tuple[list[int], list[float]]:
        """Alignment with a teacher over the steps; its figure bears a name where there are several."""
        own = self.curve(f"alignment/{teacher}")
        return own if own[0] else self.curve("alignment")

    def walk(self, teacher: str) -> tuple[list[int], list[int]]:
        """A teacher's target layers: the steps from which each held with the last step, and the layers."""
        changes = [change for change in self.changes if change.teacher == teacher]
        if not changes:
            return [], []
        return [*(c.step for c in changes), max(self.steps, changes[-1].step)], [c.target for c in changes]


def target_change(line: dict[str, Any]) -> TargetChange | None:
    """The change of target that a line of metrics holds; None where it holds figures, or is damaged."""
    is_change = line.get("event") == "target_changed"
    return as_record(TargetChange, {"flops_saved": math.nan, **line}) if is_change else None


def _has_step(line: dict[str, Any]) -> bool:
    return isinstance(line.get("step"), int)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _age(path: Path) -> float | None:
    """Seconds since a file was written; None where there is none."""
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return None
