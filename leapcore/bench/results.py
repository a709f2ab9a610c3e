"""A bench's results, read from its folder as far as they are, and its table with one row per cell."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from leapcore.bench.matrix_file import MatrixCell, MatrixFile
from leapcore.errors import ReportError
from leapcore.report.output_files import write_report_file
from leapcore.runs.find import cell_run
from leapcore.runs.json_files import read_json_object
from leapcore.runs.names import MATRIX
from leapcore.runs.reader import Run
from leapcore.runs.records import as_record
from leapcore.runs.state import State


@dataclass(frozen=True)
class ModelPair:
    """A teacher and a student."""

    teacher: str
    student: str

    def __str__(self) -> str:
        return f"{self.teacher} → {self.student}"


@dataclass(frozen=True)
class CellResult:
    """A run of the matrix, begun or not.

    Attributes:
        plan: What it is.
        run: What there is of it.
    """

    plan: MatrixCell
    run: Run

    @property
    def pair(self) -> ModelPair:
        """Its teacher and student."""
        return ModelPair(self.plan.teacher, self.plan.student)

    @property
    def finished(self) -> bool:
        """Whether its figures are final."""
        return self.run.state is State.FINISHED


@dataclass(frozen=True)
class BenchResults:
    """A bench.

    Attributes:
        folder: Where.
        matrix: What belongs to it.
        cells: Its runs in the matrix's order.
    """

    folder: Path
    matrix: MatrixFile
    cells: list[CellResult]

    @property
    def baseline(self) -> str | None:
        """The method that others are compared with, if it is one of the bench."""
        return self.matrix.baseline if self.matrix.baseline in self.methods else None

    @cached_property
    def pairs(self) -> list[ModelPair]:
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

    def of(self, pair: ModelPair, method: str) -> list[CellResult]:
        """The cells of a pair and method, seed by seed."""
        return [cell for cell in self.cells if cell.pair == pair and cell.plan.method == method]

    def values(self, pair: ModelPair, method: str, figure: Callable[[Run], float]) -> dict[int, float]:
        """A figure of the finished cells of a pair and method, by seed; those that have none are left out."""
        values = {cell.plan.seed: figure(cell.run) for cell in self.of(pair, method) if cell.finished}
        return {seed: value for seed, value in values.items() if math.isfinite(value)}

    def depth(self, cell: CellResult) -> int | None:
        """How many layers a cell's teacher has, from its run or another one with that teacher."""
        runs = [cell.run, *(other.run for other in self.cells if other.plan.teacher == cell.plan.teacher)]
        return next((depth for run in runs if (depth := run.depth(run.teachers[0]))), None)


def read_bench(folder: Path) -> BenchResults:
    """Read a bench folder.

    Raises:
        ReportError: Its matrix cannot be read, or holds no cell.
    """
    matrix = as_record(MatrixFile, read_json_object(folder / MATRIX))
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
    cells = [CellResult(plan, cell_run(folder, plan.name)) for plan in matrix.cells]
    return BenchResults(folder, matrix, cells)


def rows(results: BenchResults) -> list[dict[str, Any]]:
    """A row per cell, all with the same columns; what a cell has not is None."""
    filled = [dict(_row(results, cell)) for cell in results.cells]
    columns = dict.fromkeys(column for row in filled for column in row)
    return [{column: row.get(column) for column in columns} for row in filled]


def _row(results: BenchResults, cell: CellResult) -> Iterator[tuple[str, Any]]:
    plan, summary, families = cell.plan, cell.run.summary, results.matrix.families
    yield from vars(plan).items()
    yield "teacher_family", families.get("teachers", {}).get(plan.teacher)
    yield "student_family", families.get("students", {}).get(plan.student)
    yield "status", cell.run.state.value
    yield "error", next(iter(cell.run.error.splitlines()), None)
    yield "steps", cell.run.steps
    yield "target_layer", cell.run.changes[-1].target if cell.run.changes else None
    yield "advances", sum(change.previous > 0 for change in cell.run.changes)
    totals, parts = ("spent", "baseline", "saved"), summary.flops["spent_by_part"]
    yield from ((f"flops_{total}", _number(summary.flops[total])) for total in totals)
    yield from ((f"flops_{part}", _number(value)) for part, value in parts.items())
    yield from ((f"accuracy_{name}", _number(value)) for name, value in summary.accuracy.items())
    yield from ((name, _number(value)) for name, value in summary.time.items())
    yield from ((f"machine_{name}", str(value)) for name, value in summary.machine.items())


def _number(value: float) -> float | None:
    """A float in any case, so that a column has one type; None for NaN."""
    return float(value) if math.isfinite(value) else None


def write_rows(folder: Path) -> list[Path]:
    """Write ``results.csv``, and ``results.parquet`` where pyarrow is installed, each whole or not at all.

    Returns:
        What was written.

    Raises:
        ReportError: The folder is no bench's, or cannot be written.
    """
    table = rows(read_bench(folder))
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
