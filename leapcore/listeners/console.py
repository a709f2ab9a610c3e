"""What a run shows in the terminal: its arguments, the models, progress, and a summary at the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from leapcore.listeners.closing import Pace, closing_line, summary
from leapcore.listeners.eta import EtaColumn
from leapcore.listeners.loading import Loading, print_line
from leapcore.listeners.opening import arguments, differences, models
from leapcore.plugins.events import RunReport, RunStart, TargetChange
from leapcore.plugins.hooks import hookimpl
from leapcore.runs.progress import ProgressLines, accuracy_text
from leapcore.spec import Spec

_PLAIN_LINES = 20  # of progress in a whole run, where there is no terminal


class ConsoleListener:
    """Shows a run as it goes: a progress bar in a terminal, plain lines with the time elsewhere.

    Args:
        console: Where to write.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._loading, self._eta = Loading(console), EtaColumn()
        self._progress = _Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:3.0f}%"),
            self._eta,
            console=console,
            disable=not console.is_terminal,
        )
        self._task = TaskID(0)
        self._lines = ProgressLines()
        self._targets: dict[str, int] = {}
        self._step = self._shown_at = 0
        self._figures: dict[str, Any] = {}  # the newest of each, since not all are measured in every step
        self._pace: Pace | None = None
        self.saw_run = False  # a finished one that nothing was left to do of, starts none

    def show_arguments(self, overrides: Sequence[str], spec: Spec, folder: Path) -> None:
        """Before anything heavy is loaded: show the arguments as they were given, and what they mean."""
        self._console.print(arguments(spec, overrides, folder), highlight=False)

    @hookimpl
    def leapcore_stage(self, stage: str) -> None:
        """Before the first step with a clock; later only what comes after the last step is worth a line."""
        if not self.saw_run:
            self._loading.stage(stage)
            return
        self._progress.update(self._task, description=stage)
        if not self._console.is_terminal and self._step in (0, self._lines.total_steps):
            print_line(self._console, stage)

    @hookimpl
    def leapcore_run_started(self, start: RunStart) -> None:
        """Show what is about to happen."""
        self.saw_run, self._lines, self._pace = True, ProgressLines.from_event(start), Pace(start)
        self._step = self._shown_at = start.step
        if ready := self._loading.end():
            print_line(self._console, ready, "dim")
        self._console.print()
        self._console.print(models(start), highlight=False)
        for line in differences(start):
            self._console.print(f"  {line}", style="yellow", highlight=False, markup=False)
        self._console.print(f"\n{_plan(start)}\n", markup=False, highlight=False)
        for name, link in start.links.items():
            self._console.print(f"{name}: {link}", markup=False, highlight=False, soft_wrap=True)
        if start.step:
            self._targets = dict(start.targets)
            self._print(f"goes on after step {start.step:,}, {self._lines.targets(self._targets)}")
        self._task = self._progress.add_task(
            self._lines.targets(self._targets) if start.step else "starting",
            total=start.total_steps,
            completed=start.step,
            figures="",
        )
        self._eta.start(start)
        self._progress.start()

    @hookimpl
    def leapcore_target_changed(self, event: TargetChange) -> None:
        """A line per change of target."""
        self._targets[event.teacher] = event.target
        self._progress.update(self._task, description=self._lines.targets(self._targets))
        self._print(self._lines.change(event))
        self._shown_at = event.step

    @hookimpl
    def leapcore_metrics(self, step: int, metrics: dict[str, Any]) -> None:
        """Move the bar; without a terminal, a line now and then."""
        self._step = step
        if "loss" not in metrics:  # an evaluation's
            self._show_accuracy(step, metrics)
            return
        if self._pace:
            self._pace.note(metrics)
        self._figures |= metrics
        self._eta.note(step, metrics)
        figures, total = self._lines.figures(self._figures), self._lines.total_steps
        targets = self._lines.targets(self._targets)
        self._progress.update(self._task, completed=step, description=targets, figures=figures)
        if not self._console.is_terminal and (step - self._shown_at) * _PLAIN_LINES >= total:
            self._shown_at = step
            print_line(self._console, f"{self._lines.step(step)}/{total:,}  {targets}  {figures}")

    def _show_accuracy(self, step: int, metrics: dict[str, Any]) -> None:
        """Of a student in training; the last one is in the summary."""
        if step < self._lines.total_steps and (accuracy := accuracy_text(metrics)):
            print_line(self._console, f"{self._lines.step(step)}  {accuracy}")

    @hookimpl
    def leapcore_images_skipped(self, step: int, images: dict[str, str]) -> None:
        """Name the first few."""
        for name, reason in list(images.items())[:3]:
            print_line(self._console, f"step {step}: skipped {name}: {reason}", "yellow")
        if len(images) > 3:
            print_line(self._console, f"… and {len(images) - 3} more, see skipped.log", "yellow")

    def _print(self, text: str) -> None:
        print_line(self._console, text, "cyan")

    @hookimpl
    def leapcore_run_finished(self, report: RunReport) -> None:
        """Show what came of it."""
        self._progress.update(self._task, description=self._lines.targets(self._targets))
        self._progress.stop()
        self._console.print(summary(report, self._pace.saved(report) if self._pace else ""))
        self._console.print("load the student in Python:", style="dim")
        self._show_how_to_load(report.student)

    def _show_how_to_load(self, student: Mapping[str, Any]) -> None:
        from leapcore.export.student import HERE, load_line_here

        self._console.print(student["load"], markup=False, highlight=False, soft_wrap=True)
        if here := load_line_here(Path(student["folder"])):
            self._console.print(HERE, style="dim")
            self._console.print(here, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the terminal as it was, however the run ended."""
        self._loading.close()
        self._progress.stop()


class QuietListener:
    """Shows nothing but the end.

    Args:
        console: Where to write.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self.saw_run = False

    @hookimpl
    def leapcore_run_finished(self, report: RunReport) -> None:
        """The closing line."""
        self.saw_run = True
        self._console.print(closing_line(report), markup=False, highlight=False, soft_wrap=True)


class EveryFigure:
    """Shows all figures of ``metrics.jsonl`` as they come.

    Args:
        console: Where to write.
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    @hookimpl
    def leapcore_metrics(self, step: int, metrics: dict[str, Any]) -> None:
        """A line with all of them."""
        figures = "  ".join(f"{name} {value:.6g}" for name, value in metrics.items())
        print_line(self._console, f"step {step:,}  {figures}", "dim")


class _Bar(Progress):
    """A bar, and figures in a line of their own below, so that both fit 80 columns."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            yield Text(task.fields["figures"], style="dim")


def _plan(start: RunStart) -> str:
    spec = start.spec
    schedulers = dict.fromkeys(curriculum.scheduler for curriculum in spec.curricula.values())
    return (
        f"{start.train_images:,} images to train, {start.val_images:,} to validate ({spec.data.source})\n"
        f"{start.total_steps:,} steps of {spec.train.batch_size} images, curriculum {', '.join(schedulers)}"
    )
