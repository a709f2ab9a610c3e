"""Several runs side by side, each against the first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from leapcore.errors import ReportError
from leapcore.report.common_blocks import (
    AVERAGED,
    CURVES,
    WALK,
    learning_plots,
    small_multiples,
    versions,
    walk_plots,
)
from leapcore.report.document import Block, Document, Section, Table
from leapcore.report.figures.curves import flops_unit, over_steps
from leapcore.report.figures.style import Style, styles
from leapcore.report.figures.svg import sample
from leapcore.report.measures import accuracy, saved_flops, spent_flops, training_seconds
from leapcore.report.numbers import counted, flops, percent, seconds, signed
from leapcore.report.output_files import write_page
from leapcore.report.settings import differences
from leapcore.runs.names import METRICS, SUMMARY, is_bench, is_run
from leapcore.runs.reader import Run
from leapcore.runs.state import State

_CAPTION = (
    "In brackets the difference to the first run: of accuracies in points, of FLOPs and time in % of the "
    "first run's. Only finished runs are compared. FLOPs are those of training, 2 per multiply-add; saved is "
    "against the teacher's last layer throughout. Time is that of training."
)
_WITHOUT_FLOPS = "Runs of earlier versions did not note their FLOPs and are missing over these."


@dataclass(frozen=True)
class Comparison:
    """Runs that are compared.

    Attributes:
        runs: By the shortest ends of their paths that tell them apart.
    """

    runs: dict[str, Run]

    @property
    def first(self) -> Run:
        """The one that the others are compared with."""
        return next(iter(self.runs.values()))

    def marked(self, name: str) -> str:
        """A run's name, with its state where it is not finished."""
        state = self.runs[name].state
        return name if state is State.FINISHED else f"{name} ({state})"

    def table(self) -> Table:
        """A row per run."""
        columns = ["run", "status", "steps", "kNN, %", "probe, %", "FLOPs", "FLOPs saved, %", "time"]
        return Table(columns, [self._row(name) for name in self.runs], _CAPTION, stubs=2)

    def _row(self, name: str) -> list[str]:
        run = self.runs[name]
        accuracies = [
            percent(read(run)) + self._against(run, read, lambda own, first: signed(own - first))
            for read in (accuracy("knn"), accuracy("linear"))
        ]
        costs = [
            write(read(run)) + self._against(run, read, lambda own, first: f"{signed(own / first - 1, 1)} %")
            for read, write in ((_spent, flops), (training_seconds, seconds))
        ]
        saved = percent(saved_flops(run), 1)
        return [name, run.state, f"{run.steps:,}", *accuracies, costs[0], saved, costs[1]]

    def _against(self, run: Run, read: Callable[[Run], float], write: Callable[[float, float], str]) -> str:
        """What a figure is against the first run's, in brackets; empty where they cannot be compared."""
        own, first = read(run), read(self.first)
        finished = run.state is self.first.state is State.FINISHED
        if run is self.first or not finished or math.isnan(own) or math.isnan(first):
            return ""
        return f" ({write(own, first)})"

    def settings(self) -> list[Table]:
        """The settings in which the runs differ; none if they do not."""
        return differences(self.runs, "Settings in which the runs differ")

    def document(self) -> Document:
        """Table, settings, and curves over steps and over FLOPs."""
        looks = styles(list(self.runs), next(iter(self.runs)))
        legend = [(self.marked(name), sample(look, name)) for name, look in looks.items()]
        drawn = [(run, looks[name]) for name, run in self.runs.items()]
        sections = [
            Section("Results", [self.table()]),
            Section("Settings that differ", [*self.settings()]),
            Section("Learning curves", _learning_curves(drawn, legend)),
            Section("Ways through the teachers", self._walks(looks, legend)),
            Section("Versions and machines", [*versions(self.runs.values())]),
        ]
        finished = sum(run.state is State.FINISHED for run in self.runs.values())
        summary = [f"{counted(len(self.runs), 'run')}, {finished} of them finished."]
        return Document(", ".join(self.runs), "comparison", summary, [s for s in sections if s.blocks])

    def _walks(self, looks: dict[str, Style], legend: list[tuple[str, str]]) -> list[Block]:
        teachers = list(dict.fromkeys(teacher for run in self.runs.values() for teacher in run.teachers))
        panels = [
            over_steps(
                teacher if len(teachers) > 1 else "",
                walk_plots(
                    [
                        (run, teacher, self._depth(run, teacher), looks[name])
                        for name, run in self.runs.items()
                        if teacher in run.teachers
                    ]
                ),
            )
            for teacher in teachers
        ]
        return [*small_multiples(f"{WALK} {AVERAGED}", panels, legend, wide=26)]

    def _depth(self, run: Run, teacher: str) -> int | None:
        """A teacher's depth, from the run itself or from another one with the same teacher."""
        own = run.teacher_models.get(teacher)
        alike = [other for other in self.runs.values() if other.teacher_models.get(teacher) == own]
        return next((depth for one in (run, *alike) if (depth := one.depth(teacher))), None)


def _spent(run: Run) -> float:
    """FLOPs of training, of an unfinished run until its last report."""
    _, spent = run.curve("flops_spent")
    return spent_flops(run) if run.summary.status or not spent else spent[-1]


def _learning_curves(runs: Sequence[tuple[Run, Style]], legend: list[tuple[str, str]]) -> list[Block]:
    """Over the steps, and over the FLOPs where they are known."""
    known = [(run, style) for run, style in runs if run.curve("flops_spent")[0]]
    unit, name = flops_unit([run.curve("flops_spent")[1][-1] for run, _ in known] or [1.0])
    over_flops = learning_plots(known, lambda run, steps: [spent / unit for spent in run.spent_at(steps)])
    panels = [
        over_steps("over steps", learning_plots(runs)),
        over_steps("over the FLOPs of training", over_flops, f"training FLOPs spent, {name}"),
    ]
    caption = f"{CURVES} {AVERAGED}" + (f" {_WITHOUT_FLOPS}" if len(known) < len(runs) else "")
    return [*small_multiples(caption, panels, legend, wide=26)]


def read_comparison(folders: Sequence[Path]) -> Comparison:
    """Read runs to compare them.

    Raises:
        ReportError: There are fewer than two, one is named twice, or one is no run.
    """
    for folder in folders:
        _require_run(folder)
    if len(folders) < 2:
        raise ReportError(
            f"only {folders[0]} is named, and nothing to compare it with", "Name two runs or more."
        )
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ReportError("a run is named twice", "Name each once.")
    return Comparison(dict(zip(_names(folders), map(Run, folders), strict=True)))


def _require_run(folder: Path) -> None:
    if not folder.is_dir():
        raise ReportError(f"folder '{folder}' does not exist", "Name the folders of runs, such as runs/NAME.")
    if is_bench(folder):
        raise ReportError(
            f"folder '{folder}' holds a bench, not a run",
            f"leapcore report {folder} compares its methods; or name runs in {folder / 'runs'}.",
        )
    if not is_run(folder):
        raise ReportError(
            f"folder '{folder}' holds no run ({METRICS}, {SUMMARY})",
            f"Name two runs or more, such as {folder}/*.",
        )


def _names(folders: Sequence[Path]) -> list[str]:
    """As few of the last parts of each path as no other one ends with."""
    parts = [folder.resolve().parts for folder in folders]
    return ["/".join(own[-_parts_needed(own, parts) :]) for own in parts]


def _parts_needed(own: tuple[str, ...], all_parts: Sequence[tuple[str, ...]]) -> int:
    """How many of its last parts no other path ends with."""
    counts = range(1, len(own) + 1)
    return next(count for count in counts if sum(one[-count:] == own[-count:] for one in all_parts) == 1)


def write_comparison(comparison: Comparison, output: Path) -> Path:
    """Write the page; an earlier one is replaced.

    Raises:
        ReportError: It cannot be written.
    """
    return write_page(comparison.document(), output)
