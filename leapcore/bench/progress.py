"""What a benchmark shows in the terminal: one table of all cells."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from statistics import mean

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from leapcore.bench.folder import BenchFolder
from leapcore.bench.matrix import Cell
from leapcore.runs.progress import clock
from leapcore.runs.reader import Run
from leapcore.runs.state import State

_MARKS = {
    State.FINISHED: ("●", "green"),
    State.FAILED: ("✗", "red"),
    State.INTERRUPTED: ("◌", "yellow"),
    State.DEAD: ("◌", "yellow"),
    State.STARTING: ("◍", "blue"),
    State.RUNNING: ("◍", "blue"),
    State.WAITING: ("·", "dim"),
}
_RUNNING_HERE = ("◐", "cyan")
LEGEND = "● finished  ◐ running here  ◍ running elsewhere  ◌ interrupted or dead  ✗ failed  · waiting"
_REFRESH = 2.0  # seconds between two looks at the files


class BenchProgress:
    """A table: rows are pairs of teacher and student, columns are methods, a mark is a seed.

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

    def __enter__(self) -> BenchProgress:
        if self._console.is_terminal:
            self._live.start()
            self._show()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def changed(self, cell: Cell, state: State, running: bool) -> None:
        """Note a cell's new state; where there is no terminal, print it."""
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
        if self._states[cell.name] is State.FINISHED:
            accuracy = self._folder.run(cell).summary.accuracy
            self._accuracies |= {cell.name: accuracy["knn"]} if "knn" in accuracy else {}

    def _line(self, cell: Cell, state: State, seconds: float) -> str:
        done = f"[{self._total - len(self._open)}/{self._total}] {cell.name}: {state}"
        if state.at_work:
            return f"{done}, another process has it"
        if state is State.FAILED:
            return f"{done}: {self._folder.run(cell).error} (see {self._folder.log(cell)})"
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
        text, names = Text(), (teacher, student, method)
        seeds = [cell for cell in self._cells if (cell.teacher, cell.student, cell.method) == names]
        for cell in seeds:
            text.append(*(_RUNNING_HERE if cell.name in self._began else _MARKS[self._states[cell.name]]))
        known = [self._accuracies[cell.name] for cell in seeds if cell.name in self._accuracies]
        return text.append(f" {100 * mean(known):.2f}" if known else "")

    def _running(self) -> Text:
        """How far each is that runs here."""
        lines = []
        for cell in (cell for cell in self._cells if cell.name in self._began):
            run = self._folder.run(cell)
            share = _share(cell, run)
            progress = f"{share:.0%}" if run.figures else "starting"
            lines.append(f"◐ {cell.name}: {progress if share < 1 else 'evaluating'}")
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


def _share(cell: Cell, run: Run) -> float:
    """How much of a run is done."""
    duration = cell.spec.train.duration
    done = run.figures.get("epoch" if duration.unit == "ep" else "step", 0)
    return float(done) / float(duration.amount)
