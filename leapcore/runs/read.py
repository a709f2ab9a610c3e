"""A run's folder, read as far as it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from leapcore.runs.files import json_lines, json_object, text
from leapcore.runs.names import CKA_MAPS, METRICS, SPEC, SUMMARY, is_run
from leapcore.runs.records import Record, as_record
from leapcore.spec.text import NOT_YAML


class Flops(Record):
    """FLOPs of training, 2 per multiply-add; ``saved`` is a share of ``baseline``."""

    spent: float = math.nan
    baseline: float = math.nan
    saved: float = math.nan
    spent_by_part: dict[str, float] = Field(default_factory=dict)


class TeacherFacts(Record):
    """A teacher's depth and size."""

    layers: int
    parameters: int = 0


class Summary(Record):
    """``summary.json``."""

    name: str = ""
    status: str = ""
    steps: int = 0
    accuracy: dict[str, float] = Field(default_factory=dict)
    flops: Flops = Flops()
    time: dict[str, float] = Field(default_factory=dict)
    student: dict[str, Any] = Field(default_factory=dict)
    teachers: dict[str, TeacherFacts] = Field(default_factory=dict)
    machine: dict[str, Any] = Field(default_factory=dict)
    error: str = ""


class Change(Record):
    """A change of target; layers are counted from 1, 0 stands for "before the start"."""

    step: int
    previous: int
    target: int
    reason: str = ""
    teacher: str = "teacher"


class Model(Record):
    """A teacher or student, as the spec names it."""

    backbone: str = ""
    model: str | None = None
    weights: str = "none"
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def name(self) -> str:
        """The model's, its family's where the spec names none."""
        return self.model or self.backbone

    @property
    def start(self) -> str:
        """Its weights before training."""
        told = {"none": "random weights", "pretrained": "its published weights"}
        return told.get(self.weights, f"the weights {self.weights}")

    @property
    def described(self) -> str:
        """Name and weights."""
        return f"{self.name} with {self.start}"


class CkaMap(Record):
    """CKA of every student layer with every teacher layer: ``cka[student layer][teacher layer]``."""

    step: int
    teacher: str = "teacher"
    images: int = 0
    student_layers: list[str]
    teacher_layers: list[str]
    cka: list[list[float]]

    @model_validator(mode="after")
    def _fits(self) -> CkaMap:
        rows = {len(row) for row in self.cka}
        if not self.cka or rows != {len(self.teacher_layers)} or len(self.cka) != len(self.student_layers):
            raise ValueError("as many rows as student layers, as many columns as teacher layers")
        return self


@dataclass(frozen=True)
class Run:
    """What there is of a run.

    Attributes:
        folder: Where; it need not exist.
    """

    folder: Path

    @cached_property
    def summary(self) -> Summary:
        """Its summary, an empty one before the end."""
        return as_record(Summary, json_object(self.folder / SUMMARY)) or Summary()

    @cached_property
    def status(self) -> str:
        """finished, failed, interrupted, unfinished (it runs, or was killed) or not begun."""
        if self.summary.status in ("finished", "failed", "interrupted"):
            return self.summary.status
        return "unfinished" if is_run(self.folder) else "not begun"

    @property
    def name(self) -> str:
        """As the spec says, else the folder's."""
        return self.summary.name or self.folder.resolve().name

    @property
    def spec(self) -> str:
        """The resolved spec, as YAML."""
        return text(self.folder / SPEC)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The resolved spec's sections; none of one that is half written."""
        from ruamel.yaml import YAML

        try:
            found = YAML(typ="safe").load(self.spec)
        except NOT_YAML:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def data(self) -> dict[str, Any]:
        """The spec's data section."""
        return self.settings.get("data") or {}

    @property
    def student_model(self) -> Model:
        """The student, as the spec names it."""
        return as_record(Model, self.settings.get("student")) or Model()

    @property
    def teacher_models(self) -> dict[str, Model]:
        """The teachers by name, as the spec has them; a single one is called ``teacher``."""
        several = self.settings.get("teachers") or {"teacher": self.settings.get("teacher")}
        return {name: model for name, told in several.items() if (model := as_record(Model, told))}

    @cached_property
    def _lines(self) -> list[dict[str, Any]]:
        found = json_lines(self.folder / METRICS)
        return [line for line in found if isinstance(line.get("step"), int)]

    @cached_property
    def changes(self) -> list[Change]:
        """Every change of target, the first included."""
        told = (line for line in self._lines if line.get("event") == "target_changed")
        return [change for line in told if (change := as_record(Change, line))]

    @cached_property
    def maps(self) -> list[CkaMap]:
        """CKA maps in order of time."""
        lines = json_lines(self.folder / CKA_MAPS)
        return sorted((m for line in lines if (m := as_record(CkaMap, line))), key=lambda m: m.step)

    @property
    def steps(self) -> int:
        """Finished steps, as far as is known."""
        told: list[int] = [line["step"] for line in self._lines]
        return max([self.summary.steps, *told])

    @property
    def teachers(self) -> list[str]:
        """Names of its teachers."""
        told = dict.fromkeys(change.teacher for change in self.changes)
        return list(self.summary.teachers or told or ["teacher"])

    def depth(self, teacher: str) -> int | None:
        """How many layers a teacher has, None if it is not told yet."""
        if teacher in self.summary.teachers:
            return self.summary.teachers[teacher].layers
        return next((len(m.teacher_layers) for m in self.maps if m.teacher == teacher), None)

    def curve(self, figure: str) -> tuple[list[int], list[float]]:
        """A figure over the steps, as reports tell it: steps and values, those that are numbers."""
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
        found = self.curve(f"alignment/{teacher}")
        return found if found[0] else self.curve("alignment")

    def walk(self, teacher: str) -> tuple[list[int], list[int]]:
        """A teacher's target layers: the steps from which each held with the last step, and the layers."""
        changes = [change for change in self.changes if change.teacher == teacher]
        if not changes:
            return [], []
        return [*(c.step for c in changes), max(self.steps, changes[-1].step)], [c.target for c in changes]

    def accuracies(self) -> Iterator[tuple[str, float]]:
        """Every accuracy of the end, as a share."""
        yield from self.summary.accuracy.items()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
