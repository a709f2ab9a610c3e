"""``leapcore status`` and ``leapcore tail``: how a run is doing, from another terminal."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leapcore.cli.output import console, print_line

if TYPE_CHECKING:
    from rich.console import Console

    from leapcore.runs.reader import Run

_STYLES = {
    "finished": "green",
    "running": "cyan",
    "starting": "cyan",
    "failed": "red",
    "dead": "red",
    "interrupted": "yellow",
    "waiting": "yellow",
}
_PAUSE = 0.5  # seconds between two looks at the file
_WIDE = 110  # columns that all figures need
_FOR_WIDE = ("step", "loss", "updated")


def status(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER", help="Folders of runs or benchmarks, or one that holds such."),
    ],
    json_: Annotated[bool, typer.Option("--json", help="A list of objects, for programs.")] = False,
) -> None:
    """Show how far runs are.

    Of one run all that its files hold is shown, of several a table.
    """
    from leapcore.runs.find import runs_in

    runs = [run for folder in folders for run in runs_in(folder)]
    if json_:
        typer.echo(json.dumps([_finite(_as_object(run)) for run in runs], indent=1))
    elif len(runs) == 1:
        _show(console(), runs[0])
    else:
        terminal = console()
        terminal.print(_table(runs, terminal.width))


def _as_object(run: Run) -> dict[str, Any]:
    checkpoint = run.checkpoint
    return {
        "folder": str(run.folder),
        "name": run.name,
        "state": run.state,
        "reason": run.error or None,
        "process": run.process,
        "step": run.steps,
        "total_steps": run.progress.total_steps or None,
        "epoch": run.figures.get("epoch"),
        "target_layers": run.targets,
        "thresholds": dict(run.progress.thresholds),
        "figures": run.figures,
        "accuracy": run.accuracy,
        "seconds_left": run.seconds_left,
        "seconds_since_update": run.updated,
        "checkpoint": checkpoint and {"name": checkpoint[0], "age_seconds": checkpoint[1]},
    }


def _finite(value: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _show(terminal: Console, run: Run) -> None:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in _facts(run).items():
        if value:
            grid.add_row(f"  {label}", Text(value))
    title = Text(f"{run.folder}: ").append(run.state, _STYLES[run.state])
    terminal.print(title, grid)


def _facts(run: Run) -> dict[str, str]:
    from leapcore.runs.progress import accuracy_text, clock

    epoch, checkpoint, left = run.figures.get("epoch"), run.checkpoint, run.seconds_left
    return {
        "reason": run.error,
        "step": _progress(run) + (f", epoch {epoch:.1f}" if epoch is not None else ""),
        "target": run.progress.targets(run.targets) if run.targets else "",
        "figures": run.progress.figures(run.figures),
        "accuracy": accuracy_text(run.accuracy),
        "left": "" if left is None else f"about {clock(left)} of training",
        "updated": _ago(run.updated),
        "checkpoint": f"{checkpoint[0]}, {_ago(checkpoint[1])}" if checkpoint else "none yet",
        "runs as": run.process,
    }


def _table(runs: list[Run], width: int) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    headings = [heading for heading in _cells(runs[0]) if width >= _WIDE or heading not in _FOR_WIDE]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("run", overflow="fold")
    table.add_column("state", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for run in runs:
        cells = _cells(run)
        state = Text(run.state, _STYLES[run.state])
        table.add_row(str(run.folder), state, *(cells[heading] for heading in headings))
    return table


def _cells(run: Run) -> dict[str, str]:
    from leapcore.runs.progress import clock

    loss, knn, left, total = (
        run.figures.get("loss"),
        run.accuracy.get("knn"),
        run.seconds_left,
        run.progress.total_steps,
    )
    return {
        "done": f"{run.steps / total:.0%}" if total else "",
        "step": f"{run.steps:,}" if run.steps else "",
        "layer": run.progress.targets(run.targets).removeprefix("layer ") if run.targets else "",
        "alignment": run.progress.alignment(run.figures),
        "loss": "" if loss is None else f"{loss:.3g}",
        "kNN": "" if knn is None else f"{knn:.1%}",
        "left": "" if left is None else clock(left),
        "updated": _ago(run.updated),
    }


def _progress(run: Run) -> str:
    total = run.progress.total_steps
    return f"{run.steps:,}/{total:,} ({run.steps / total:.0%})" if total else f"{run.steps:,}"


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def tail(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    lines: Annotated[
        int, typer.Option(min=0, metavar="N", help="How many earlier lines to show first.")
    ] = 10,
    follow: Annotated[bool, typer.Option(help="Keep showing new lines until the run ends.")] = True,
) -> None:
    """Follow a run's figures from another terminal.

    Changes of its target are shown, too; Ctrl-C ends this, not the run.
    """
    from leapcore.errors import ReportError
    from leapcore.runs.follow import GrowingLines
    from leapcore.runs.names import METRICS, is_run
    from leapcore.runs.reader import Run

    if not is_run(folder):
        raise ReportError(f"'{folder}' is no folder of a run", "Give one, such as runs/NAME.")
    with suppress(KeyboardInterrupt), closing(GrowingLines(folder / METRICS)) as source:
        terminal, run = console(), Run(folder)
        for line in deque(source.new(), maxlen=lines):
            _print_line(terminal, run, line)
        while follow:
            run = Run(folder)
            over = not run.process  # looked up before the file is read, so that no line is missed
            for line in source.new():
                _print_line(terminal, run, line)
            if over:
                _print_end(terminal, run)
                break
            time.sleep(_PAUSE)


def _print_line(terminal: Console, run: Run, line: dict[str, Any]) -> None:
    from leapcore.runs.progress import accuracy_text
    from leapcore.runs.reader import target_change

    progress, step = run.progress, line.get("step")
    if change := target_change(line):
        print_line(terminal, progress.change(change), "cyan")
    elif "loss" in line and isinstance(step, int):
        figures = progress.figures(line, brief=terminal.width < _WIDE)
        print_line(
            terminal, f"{progress.step(step)}  {progress.targets(progress.targets_in(line))}  {figures}"
        )
    elif isinstance(step, int):
        print_line(terminal, f"{progress.step(step)}  {accuracy_text(line)}")


def _print_end(terminal: Console, run: Run) -> None:
    from leapcore.runs.progress import accuracy_text

    parts = filter(None, [run.state, run.error, accuracy_text(run.accuracy)])
    print_line(terminal, f"{run.folder}: {', '.join(parts)}", _STYLES[run.state])
