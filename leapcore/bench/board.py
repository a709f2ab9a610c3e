"""What a benchmark shows in the terminal: one table of all cells."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from leapcore.bench.folder import BenchFolder, State
from leapcore.bench.matrix import Cell
from leapcore.runs.files import json_object, last_json_lines
from leapcore.runs.lines import clock
from leapcore.runs.names import METRICS, SUMMARY

_MARKS = {
    State.FINISHED: ("●", "green"),
    State.FAILED: ("✗", "red"),
    State.STOPPED: ("◌", "yellow"),
    State.BUSY: ("◍", "blue"),
    State.WAITING: ("·", "dim"),
}
_RUNNING = ("◐", "cyan")
LEGEND = "● finished  ◐ running here  ◍ running elsewhere  ◌ stopped  ✗ failed  · waiting"
_REFRESH = 2.0  # seconds between two looks at the files


class Board:
    """Rows are pairs of teacher and student, columns are methods, a mark is a seed.

    In a terminal the table is always there; elsewhere there is a line per cell, and the table at the end.

    Args:
        console: Where to write.
        folder: Of the benchmark.
        cells: All of the matrix.
        mine: Those that are to be run now, for the time left.
    """

    def __init__(
        self, console: Console, folder: BenchFolder, cells: Sequence[Cell], mine: Sequence[Cell]
    ) -> None:
        self._console, self._folder, self._cells = console, folder, cells
        self._states = {cell.name: folder.state(cell) for cell in cells}
        self._accuracies: dict[str, float] = {}
        self._open = {cell.name for cell in mine if self._states[cell.name] is not State.FINISHED}
        self._total = len(self._open)
        self._began: dict[str, float] = {}
        self._looked = self._started = time.monotonic()
        for cell in cells:
            self._note(cell)
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Board:
        if self._console.is_terminal:
            self._live.start()
            self._show()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def changed(self, cell: Cell, state: State, running: bool) -> None:
        """Keep a cell's new state; where there is no terminal, tell of it."""
        self._states[cell.name] = state
        if running:
            self._began[cell.name] = time.monotonic()
            return
        now = time.monotonic()
        seconds = now - self._began.pop(cell.name, now)
        self._open.discard(cell.name)
        self._note(cell)
        if state is State.FAILED or not self._console.is_terminal:
            line = self._line(cell, state, seconds)
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._show()

    def tick(self) -> None:
        """Draw again, now and then."""
        if self._console.is_terminal and time.monotonic() - self._looked > _REFRESH:
            self._looked = time.monotonic()
            self._show()

    def _show(self) -> None:
        if self._console.is_terminal:
            self._live.update(
                Group(self.table(), Text(LEGEND), self._running(), self._footer()), refresh=True
            )

    def _note(self, cell: Cell) -> None:
        summary = json_object(self._folder.run(cell) / SUMMARY) or {}
        accuracy = summary.get("accuracy") or {}
        if self._states[cell.name] is State.FINISHED and "knn" in accuracy:
            self._accuracies[cell.name] = accuracy["knn"]

    def _line(self, cell: Cell, state: State, seconds: float) -> str:
        done = f"[{self._total - len(self._open)}/{self._total}] {cell.name}: {state.value}"
        if state is State.BUSY:
            return f"{done}, another process has it"
        if state is State.FAILED:
            reason = self._folder.failure(cell).read_text().strip()
            return f"{done}: {reason} (see {self._folder.log(cell)})"
        knn = f", kNN accuracy {self._accuracies[cell.name]:.2%}" if cell.name in self._accuracies else ""
        return f"{done} after {seconds:.0f} s{knn}" if seconds else done

    def table(self) -> Table:
        """All cells: a mark for each seed, and the mean kNN accuracy of those that are finished."""
        methods = list(dict.fromkeys(cell.method for cell in self._cells))
        table = Table(title="kNN accuracy, %", title_justify="left")
        table.add_column("teacher -> student")
        for method in methods:
            table.add_column(method)
        pairs = dict.fromkeys((cell.teacher, cell.student) for cell in self._cells)
        for pair in pairs:
            marks = [self._marks(*pair, method) for method in methods]
            table.add_row(" -> ".join(pair), *marks)
        return table

    def _marks(self, teacher: str, student: str, method: str) -> Text:
        text, wanted = Text(), (teacher, student, method)
        some = [cell for cell in self._cells if (cell.teacher, cell.student, cell.method) == wanted]
        for cell in some:
            text.append(*(_RUNNING if cell.name in self._began else _MARKS[self._states[cell.name]]))
        known = [self._accuracies[cell.name] for cell in some if cell.name in self._accuracies]
        return text.append(f" {100 * mean(known):.2f}" if known else "")

    def _running(self) -> Text:
        """How far each is that runs here."""
        lines = []
        for cell in (cell for cell in self._cells if cell.name in self._began):
            last = _last_figures(self._folder.run(cell) / METRICS)
            share = _share(cell, last)
            told = f"{share:.0%}" if last else "starting"
            lines.append(f"◐ {cell.name}: {told if share < 1 else 'evaluating'}")
        return Text("\n".join(lines), style="cyan")

    def _footer(self) -> Text:
        done = self._total - len(self._open)
        counts = Counter(self._states.values())
        text = f"{counts[State.FINISHED]} of {len(self._cells)} cells finished, {counts[State.FAILED]} failed"
        if done:
            rate = (time.monotonic() - self._started) / done
            left = clock(rate * len(self._open))
            text += f"; {len(self._open)} to do, about {left} left"
        return Text(text)


def _share(cell: Cell, figures: dict[str, Any]) -> float:
    """How much of a run is done."""
    duration = cell.spec.train.duration
    done = figures.get("epoch" if duration.unit == "ep" else "step", 0)
    return float(done) / float(duration.amount)


def _last_figures(metrics: Path) -> dict[str, Any]:
    """The last whole line of a run's figures; empty if there is none."""
    return next((found for found in last_json_lines(metrics) if "epoch" in found), {})
