"""What a run shows when it ends."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

from rich.markup import escape
from rich.table import Table

from leapcore.plugins.events import RunReport, RunStart, figure_name
from leapcore.runs.names import CHECKPOINTS, METRICS, PAGE, TENSORBOARD
from leapcore.runs.progress import ACCURACY_LABELS, ProgressLines, accuracy_text

_ENOUGH = 5  # lines of figures at the last layer, for its pace
_FILES = (PAGE, METRICS, CHECKPOINTS, TENSORBOARD)


class Pace:
    """How fast training is while the target is the deepest, the pace of a run without a curriculum.

    Args:
        start: The run. One that goes on was not seen whole, so that its saving is not known.
    """

    def __init__(self, start: RunStart) -> None:
        self._lines, self._batch = ProgressLines.from_event(start), start.spec.train.batch_size
        self._speeds: list[float] = []
        self._deep = start.step > 0 or all(deepest == 1 for deepest in start.deepest.values())
        self._known = not self._deep

    def note(self, metrics: Mapping[str, Any]) -> None:
        """Take in figures; those of steps before the deepest layer are left out."""
        deep = self._lines.targets_in(metrics) == self._lines.deepest
        if deep and self._deep:
            self._speeds.append(metrics["images_per_second"])
        self._deep = deep

    def saved(self, report: RunReport) -> str:
        """The share of training's time saved against that pace throughout; empty where it is not known."""
        if not self._known or len(self._speeds) < _ENOUGH:
            return ""
        seconds = report.steps * self._batch / median(self._speeds)
        share = 1 - report.time["training_seconds"] / seconds
        return f"about {share:.0%} of training, against its own pace at the last layer"


def closing_line(report: RunReport) -> str:
    """All in one line."""
    parts = [report.status, accuracy_text(report.accuracy), f"{report.flops['saved']:.1%} of FLOPs saved"]
    return f"{report.name}: {', '.join(filter(None, parts))}, results in {report.folder}"


def summary(report: RunReport, time_saved: str) -> Table:
    """What came of it.

    Args:
        report: The run.
        time_saved: A phrase on that; empty for no such row.
    """
    table = Table(title=f"{report.name}: {report.status}", title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, label in ACCURACY_LABELS.items():
        if name in report.accuracy:
            table.add_row(label, f"[bold]{report.accuracy[name]:.2%}[/]{_of_teachers(report, name)}")
    for key in (key for key in report.accuracy if key.startswith("medium_map/")):
        hard = report.accuracy.get(key.replace("medium", "hard"), math.nan)
        precisions = f"medium {report.accuracy[key]:.2%}, hard {hard:.2%}"
        table.add_row(f"mAP on {escape(key.partition('/')[2])}", precisions)
    for row in _cost(report):
        table.add_row(*row)
    if time_saved:
        table.add_row("time saved", time_saved)
    for name in report.teachers:
        whose = f" of {escape(name)}" if len(report.teachers) > 1 else ""
        walk = " -> ".join(str(change.target) for change in report.curriculum if change.teacher == name)
        table.add_row(f"target layers{whose}", walk)
    student = report.student
    table.add_row("student", f"{escape(student['folder'])}  ({student['parameters']:,} parameters)")
    files = [name for name in _FILES if (report.folder / name).exists()]
    table.add_row("beside it", ", ".join(files))
    return table


def _cost(report: RunReport) -> list[tuple[str, str]]:
    flops, seconds = report.flops, report.time
    return [
        ("FLOPs spent", f"{flops['spent']:.3e}  (1 multiply-add = 2 FLOPs)"),
        (
            "FLOPs saved",
            f"[bold]{flops['saved']:.1%}[/] of {flops['baseline']:.3e} at the last layer throughout",
        ),
        ("time", f"{seconds['seconds']:.1f} s, {seconds['training_seconds']:.1f} s of it training"),
    ]


def _of_teachers(report: RunReport, figure: str) -> str:
    """``  (teacher 98.61%)``, by name where there are several."""
    shares = []
    for name in report.teachers:
        label = name if len(report.teachers) > 1 else "teacher"
        key = figure_name(f"teacher_{figure}", name, report.teachers)
        if key in report.accuracy:
            shares.append(f"{escape(label)} {report.accuracy[key]:.2%}")
    return f"  ({', '.join(shares)})" if shares else ""
