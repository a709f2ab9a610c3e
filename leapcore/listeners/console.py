"""What a run shows in the terminal: a table at the start, progress, a summary at the end."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from leapcore.events import ModelFacts, RunReport, RunStart, TargetChange, figure_name
from leapcore.hookspecs import hookimpl
from leapcore.spec import Spec


class ConsoleListener:
    """Shows a run as it goes: a progress bar in a terminal, plain lines elsewhere.

    Args:
        console: Where to write.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:3.0f}%  {task.fields[figures]}  ETA"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = TaskID(0)
        self._layers: dict[str, int] = {}  # how many each teacher has
        self._targets: dict[str, int] = {}
        self._epoch = 0
        self.told = False  # of a run

    @hookimpl
    def leapcore_run_started(self, start: RunStart) -> None:
        """Show what is about to happen."""
        self.told = True
        self._layers = {name: facts.layers for name, facts in start.teachers.items()}
        self._console.print(_models_table(start))
        spec = start.spec
        self._console.print(
            f"{spec.data.source}: {start.train_images:,} training images, {start.val_images:,} to validate, "
            f"{start.total_steps:,} steps of {spec.train.batch_size}, "
            f"curriculum '{_curricula(spec)}', results in {start.folder}\n",
            markup=False,
        )
        for name, link in start.links.items():
            self._console.print(f"{name}: {link}", markup=False, highlight=False, soft_wrap=True)
        self._epoch = start.step // start.steps_per_epoch
        if start.step:
            self._targets = dict(start.targets)
            self._console.print(
                f"goes on after step {start.step:,}, {self._targets_text()}", style="cyan", highlight=False
            )
        self._task = self._progress.add_task(
            self._targets_text() if start.step else "starting",
            total=start.total_steps,
            completed=start.step,
            figures="",
        )
        self._progress.start()

    @hookimpl
    def leapcore_target_changed(self, event: TargetChange) -> None:
        """A line per change of target."""
        self._targets[event.teacher] = event.target
        self._progress.update(self._task, description=self._targets_text())
        whose = f"{event.teacher}: " if len(self._layers) > 1 else ""
        if event.previous:
            text = f"step {event.step}: {whose}layer {event.previous} -> {event.target} ({event.reason})"
        else:
            text = f"{whose}starts at layer {event.target} of {self._layers[event.teacher]}"
        self._console.print(text, style="cyan", markup=False, highlight=False)

    @hookimpl
    def leapcore_metrics(self, step: int, metrics: dict[str, Any]) -> None:
        """Move the bar; without a terminal, a line per epoch."""
        if "knn" in metrics:
            self._console.print(f"step {step}: kNN accuracy {metrics['knn']:.2%}", highlight=False)
        if "loss" not in metrics:  # an evaluation's
            return
        figures = _figures(metrics)
        self._progress.update(self._task, completed=step, figures=figures)
        if not self._console.is_terminal and int(metrics["epoch"]) > self._epoch:
            self._epoch = int(metrics["epoch"])
            self._console.print(f"epoch {self._epoch}  {self._targets_text()}  {figures}", highlight=False)

    @hookimpl
    def leapcore_images_skipped(self, step: int, images: dict[str, str]) -> None:
        """Name the first few."""
        for name, reason in list(images.items())[:3]:
            self._console.print(f"step {step}: skipped {name}: {reason}", style="yellow", markup=False)
        if len(images) > 3:
            self._console.print(f"… and {len(images) - 3} more, see skipped.log", style="yellow")

    def _targets_text(self) -> str:
        """``layer 3/12``; of several teachers ``layer 3/12, 1/24``."""
        return "layer " + ", ".join(f"{self._targets[name]}/{self._layers[name]}" for name in self._targets)

    @hookimpl
    def leapcore_run_finished(self, report: RunReport) -> None:
        """Show what came of it."""
        self._progress.stop()
        self._console.print(_summary_table(report))
        self._console.print(
            f"load it: {report.student['load']}", markup=False, highlight=False, soft_wrap=True
        )

    def close(self) -> None:
        """Leave the terminal as it was, however the run ended."""
        self._progress.stop()


def _figures(metrics: dict[str, Any]) -> str:
    scores = [f"{value:.3f}" for name, value in metrics.items() if name.partition("/")[0] == "alignment"]
    alignment = f"alignment {', '.join(scores)}  " if scores else ""
    return (
        f"{alignment}loss {metrics['loss']:.4f}  {metrics['images_per_second']:,.0f} images/s  "
        f"FLOPs saved {metrics['flops_saved']:.1%}"
    )


def _models_table(start: RunStart) -> Table:
    table = Table(title=f"leapcore run {start.spec.name}", title_justify="left")
    for heading in ("", "model", "layers", "parameters", "MACs per image"):
        table.add_column(heading, justify="left" if heading in ("", "model") else "right")
    for role, facts in (*start.teachers.items(), ("student", start.student)):
        table.add_row(role, *_facts(facts))
    return table


def _facts(facts: ModelFacts) -> tuple[str, str, str, str]:
    return escape(facts.name), str(facts.layers), f"{facts.parameters:,}", f"{facts.macs / 1e6:,.1f} M"


def _summary_table(report: RunReport) -> Table:
    table = Table(title=f"{report.name}: {report.status}", title_justify="left", show_header=False)
    for name, label in (("knn", "kNN accuracy"), ("linear", "linear probe accuracy")):
        if name in report.accuracy:
            table.add_row(label, f"[bold]{report.accuracy[name]:.2%}[/]{_of_teachers(report, name)}")
    for key in (key for key in report.accuracy if key.startswith("medium_map/")):
        hard = report.accuracy.get(key.replace("medium", "hard"), math.nan)
        table.add_row(
            f"mAP on {escape(key.partition('/')[2])}", f"medium {report.accuracy[key]:.2%}, hard {hard:.2%}"
        )
    flops, seconds = report.flops, report.time
    table.add_row("FLOPs spent", f"{flops['spent']:.3e}  (1 multiply-add = 2 FLOPs)")
    table.add_row(
        "FLOPs saved",
        f"[bold]{flops['saved']:.1%}[/] of {flops['baseline']:.3e} at the last layer throughout",
    )
    table.add_row("time", f"{seconds['seconds']:.1f} s, {seconds['training_seconds']:.1f} s of it training")
    for name in report.teachers:
        whose = f" of {escape(name)}" if len(report.teachers) > 1 else ""
        walk = " -> ".join(str(change.target) for change in report.curriculum if change.teacher == name)
        table.add_row(f"target layers{whose}", walk)
    table.add_row(
        "student", f"{escape(report.student['folder'])}  ({report.student['parameters']:,} parameters)"
    )
    if (page := report.folder / "report.html").exists():
        table.add_row("report", escape(str(page)))
    return table


def _of_teachers(report: RunReport, figure: str) -> str:
    """``  (teacher 98.61%)``, by name where there are several."""
    found = []
    for name in report.teachers:
        label = name if len(report.teachers) > 1 else "teacher"
        key = figure_name(f"teacher_{figure}", name, report.teachers)
        if key in report.accuracy:
            found.append(f"{escape(label)} {report.accuracy[key]:.2%}")
    return f"  ({', '.join(found)})" if found else ""


def _curricula(spec: Spec) -> str:
    """The schedulers' names, each once."""
    return ", ".join(dict.fromkeys(curriculum.scheduler for curriculum in spec.curricula.values()))
