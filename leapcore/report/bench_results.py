"""A bench folder, read as far as it is, and its table with one row per cell."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from leapcore.errors import ReportError
from leapcore.report.files import write_report_file
from leapcore.runs.files import MATRIX, json_object, text
from leapcore.runs.read import Run
from leapcore.runs.records import Record, as_record


class CellPlan(Record):
    """A cell of the matrix: which run it is."""

    name: str
    teacher: str
    student: str
    method: str
    seed: int


class Matrix(Record):
    """``matrix.json``: what belongs to the bench, in order."""

    name: str = "bench"
    baseline: str | None = None
    teachers: list[str]
    students: list[str]
    methods: list[str]
    families: dict[str, dict[str, str]] = Field(default_factory=dict)
    cells: list[CellPlan]


@dataclass(frozen=True)
class Pair:
    """A teacher and a student."""

    teacher: str
    student: str

    def __str__(self) -> str:
        return f"{self.teacher} → {self.student}"


@dataclass(frozen=True)
class Cell:
    """A run of the matrix, begun or not.

    Attributes:
        plan: What it is.
        run: What there is of it.
        error: Why its last try failed, empty if it did not.
    """

    plan: CellPlan
    run: Run
    error: str

    @property
    def pair(self) -> Pair:
        """Its teacher and student."""
        return Pair(self.plan.teacher, self.plan.student)

    @property
    def status(self) -> str:
        """As :attr:`Run.status`; ``failed`` too if its last try failed before it could tell."""
        return "failed" if self.error and self.run.status != "finished" else self.run.status

    @property
    def finished(self) -> bool:
        """Whether its figures are final."""
        return self.status == "finished"


@dataclass(frozen=True)
class Results:
    """A bench.

    Attributes:
        folder: Where.
        matrix: What belongs to it.
        cells: Its runs in the matrix's order.
    """

    folder: Path
    matrix: Matrix
    cells: list[Cell]

    @property
    def baseline(self) -> str | None:
        """The method that others are compared with, if it is one of the bench."""
        return self.matrix.baseline if self.matrix.baseline in self.methods else None

    @cached_property
    def pairs(self) -> list[Pair]:
        """Teachers with students, in the matrix's order."""
        return list(dict.fromkeys(cell.pair for cell in self.cells))

    @cached_property
    def methods(self) -> list[str]:
        """Methods that have cells, in the matrix's order."""
        used = {cell.plan.method for cell in self.cells}
        return [
            *(m for m in dict.fromkeys(self.matrix.methods) if m in used),
            *sorted(used - {*self.matrix.methods}),
        ]

    @property
    def others(self) -> list[str]:
        """All methods but the baseline."""
        return [method for method in self.methods if method != self.baseline]

    def of(self, pair: Pair, method: str) -> list[Cell]:
        """The cells of a pair and method, seed by seed."""
        return [cell for cell in self.cells if cell.pair == pair and cell.plan.method == method]

    def values(self, pair: Pair, method: str, figure: Callable[[Run], float]) -> dict[int, float]:
        """A figure of the finished cells of a pair and method, by seed; those that have none are left out."""
        found = {cell.plan.seed: figure(cell.run) for cell in self.of(pair, method) if cell.finished}
        return {seed: value for seed, value in found.items() if math.isfinite(value)}

    def depth(self, cell: Cell) -> int | None:
        """How many layers a cell's teacher has, from its run or another one with that teacher."""
        runs = [cell.run, *(other.run for other in self.cells if other.plan.teacher == cell.plan.teacher)]
        return next((depth for run in runs if (depth := run.depth(run.teachers[0]))), None)


def is_bench(folder: Path) -> bool:
    """Whether a folder is a bench's."""
    return (folder / MATRIX).is_file()


def read(folder: Path) -> Results:
    """Read a bench folder.

    Raises:
        ReportError: Its matrix cannot be read, or holds no cell.
    """
    matrix = as_record(Matrix, json_object(folder / MATRIX))
    if matrix is None:
        raise ReportError(
            f"'{folder / MATRIX}' is missing or damaged, and without it the bench's cells are not known",
            "Start the bench again with the same --output: it writes the file anew.",
        )
    if not matrix.cells:
        raise ReportError(
            f"the matrix in '{folder / MATRIX}' has no cells, so there is nothing to report",
            "Give the bench at least one teacher, student, method and seed.",
        )
    return Results(folder, matrix, [_cell(folder, plan) for plan in matrix.cells])


def _cell(folder: Path, plan: CellPlan) -> Cell:
    error = text(folder / "logs" / f"{plan.name}.failed").strip()
    return Cell(plan, Run(folder / "runs" / plan.name), error)


def accuracy(name: str) -> Callable[[Run], float]:
    """Reads an accuracy of a run's end, a share; NaN where it has none."""
    return lambda run: run.summary.accuracy.get(name, math.nan)


def training_seconds(run: Run) -> float:
    """Wall time of a run's training in seconds."""
    return run.summary.time.get("training_seconds", math.nan)


def rows(results: Results) -> list[dict[str, Any]]:
    """A row per cell, all with the same columns; what a cell has not is None."""
    found = [dict(_row(results, cell)) for cell in results.cells]
    columns = dict.fromkeys(column for row in found for column in row)
    return [{column: row.get(column) for column in columns} for row in found]


def _row(results: Results, cell: Cell) -> Iterator[tuple[str, Any]]:
    plan, summary, families = cell.plan, cell.run.summary, results.matrix.families
    yield from plan.model_dump().items()
    yield "teacher_family", families.get("teachers", {}).get(plan.teacher)
    yield "student_family", families.get("students", {}).get(plan.student)
    yield from {"status": cell.status, "error": next(iter(cell.error.splitlines()), None)}.items()
    yield "steps", cell.run.steps
    yield "target_layer", cell.run.changes[-1].target if cell.run.changes else None
    yield "advances", sum(change.previous > 0 for change in cell.run.changes)
    yield from (
        (f"flops_{name}", _number(getattr(summary.flops, name))) for name in ("spent", "baseline", "saved")
    )
    yield from ((f"flops_{part}", value) for part, value in summary.flops.spent_by_part.items())
    yield from ((f"accuracy_{name}", _number(value)) for name, value in summary.accuracy.items())
    yield from ((name, _number(value)) for name, value in summary.time.items())
    yield from ((f"machine_{name}", str(value)) for name, value in summary.machine.items())


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write_rows(folder: Path) -> list[Path]:
    """Write ``results.csv``, and ``results.parquet`` where pyarrow is installed, each whole or not at all.

    Returns:
        What was written.

    Raises:
        ReportError: The folder is no bench's, or cannot be written.
    """
    table = rows(read(folder))
    written = [write_report_file(folder / "results.csv", _csv(table).encode())]
    if (parquet := _parquet(table)) is not None:
        written.append(write_report_file(folder / "results.parquet", parquet))
    return written


def _csv(table: list[dict[str, Any]]) -> str:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return file.getvalue()


def _parquet(table: list[dict[str, Any]]) -> bytes | None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return None
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), file)
    return file.getvalue()
