"""The runs in a folder, a benchmark's included."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from leapcore.errors import ReportError
from leapcore.runs.json_files import read_json_object
from leapcore.runs.names import MATRIX, is_run
from leapcore.runs.reader import Run
from leapcore.runs.records import as_record


def runs_in(folder: Path) -> list[Run]:
    """The runs of a folder: a run's own, a benchmark's, or one that holds such folders.

    Raises:
        ReportError: There are none.
    """
    runs = list(_own_runs(folder))
    if not runs and folder.is_dir():
        runs = [run for inner in sorted(folder.iterdir()) if inner.is_dir() for run in _own_runs(inner)]
    if not runs:
        raise ReportError(
            f"'{folder}' holds no run" if folder.is_dir() else f"there is no folder '{folder}'",
            "Give the folder that a run or a benchmark writes, such as runs/NAME, or one with such folders.",
        )
    return runs


def _own_runs(folder: Path) -> Iterator[Run]:
    if is_run(folder):
        yield Run(folder)
        return
    matrix = as_record(_Matrix, read_json_object(folder / MATRIX)) or _Matrix()
    yield from (cell_run(folder, cell.name) for cell in matrix.cells)


@dataclass(frozen=True)
class _Cell:
    name: str


@dataclass(frozen=True)
class _Matrix:
    """What is needed of a benchmark's ``matrix.json`` to find its runs."""

    cells: list[_Cell] = field(default_factory=list)


def cell_run(bench: Path, cell: str, *, trust_lock_file: bool = True) -> Run:
    """The run of a benchmark's cell; the arguments are those of :class:`Run`."""
    return Run(bench / "runs" / cell, failure_note(bench, cell), trust_lock_file)


def failure_note(bench: Path, cell: str) -> Path:
    """The file that says why a cell's last try failed; there only if it did."""
    return bench / "logs" / f"{cell}.failed"
