"""A benchmark's folder: its matrix, the runs in it, and whether they belong together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from leapcore.bench.matrix import Cell
from leapcore.bench.matrix_file import MatrixCell, MatrixFile
from leapcore.bench.spec import BenchSpec
from leapcore.errors import LeapcoreError, OutputError
from leapcore.files import write_whole
from leapcore.runs.find import cell_run, failure_note
from leapcore.runs.names import MATRIX, SPEC
from leapcore.runs.reader import Run
from leapcore.runs.state import State
from leapcore.spec import Spec
from leapcore.spec.file import load_spec
from leapcore.spec.section import flat

BENCH = "bench.yaml"

# What may differ between the runs of one matrix, since it changes no result.
_FREE = ("engine", "checkpoint", "cache", "data.workers", "data.root", "train.log_every")


class BenchFolder:
    """Where a benchmark's results are.

    Args:
        path: The folder, which need not exist yet.

    Raises:
        OutputError: It is a file.
    """

    def __init__(self, path: Path) -> None:
        if path.exists() and not path.is_dir():
            raise OutputError(f"output '{path}' is a file", "Name a folder with --output.")
        self.path = path

    def run(self, cell: Cell) -> Run:
        """What there is of a cell's run at this moment."""
        # A lock's file alone would keep a killed cell from ever going on.
        return cell_run(self.path, cell.name, trust_lock_file=False)

    def spec(self, cell: Cell) -> Path:
        """The spec that a cell is run with."""
        return self.path / "specs" / f"{cell.name}.yaml"

    def log(self, cell: Cell) -> Path:
        """What a cell's run prints."""
        return self.path / "logs" / f"{cell.name}.log"

    def failure(self, cell: Cell) -> Path:
        """Why the last try failed; there only if it did."""
        return failure_note(self.path, cell.name)

    def open(self, bench: BenchSpec, source: str, cells: Sequence[Cell]) -> None:
        """Write down the matrix, which may have more cells than the last time.

        Args:
            bench: The matrix.
            source: The file that it was read from.
            cells: Its runs.

        Raises:
            OutputError: Runs in here are of another matrix, or it cannot be written.
        """
        self.check(cells)
        try:
            for cell in cells:
                self.log(cell).parent.mkdir(parents=True, exist_ok=True)
                self.spec(cell).parent.mkdir(exist_ok=True)
                write_whole(self.spec(cell), cell.spec.to_yaml())
            write_whole(self.path / BENCH, Path(source).read_bytes())  # which may be this very file
            write_whole(self.path / MATRIX, json.dumps(asdict(_matrix(bench, cells)), indent=1) + "\n")
        except OSError as error:
            raise OutputError(
                f"output folder '{self.path}' cannot be written: {error}",
                "Name another folder with --output.",
            ) from error

    def check(self, cells: Sequence[Cell]) -> None:
        """Refuse a folder whose runs are not those of this matrix.

        Raises:
            OutputError: It holds others.
        """
        known = {cell.name: cell for cell in cells}
        remedy = "Name another folder with --output, or move that run away."
        for run in sorted((self.path / "runs").glob("*/")):
            if not (run / SPEC).exists():
                continue
            if run.name not in known:
                raise OutputError(
                    f"'{self.path}' holds the run {run.name}, which is no cell of this matrix", remedy
                )
            if changed := _difference(run / SPEC, known[run.name].spec):
                raise OutputError(f"'{self.path}' holds another matrix: {run.name} has {changed}", remedy)

    def state(self, cell: Cell) -> State:
        """How far a cell is."""
        return self.run(cell).state


def _matrix(bench: BenchSpec, cells: Sequence[Cell]) -> MatrixFile:
    return MatrixFile(
        name=bench.name,
        baseline=bench.baseline,
        teachers=list(bench.teachers),
        students=list(bench.students),
        methods=list(bench.methods),
        seeds=sorted({cell.seed for cell in cells}),
        families={
            "teachers": {name: teacher.backbone for name, teacher in bench.teachers.items()},
            "students": {name: student.backbone for name, student in bench.students.items()},
        },
        cells=[MatrixCell(cell.name, cell.teacher, cell.student, cell.method, cell.seed) for cell in cells],
    )


def _difference(path: Path, spec: Spec) -> str:
    """The first key in which a run's spec is another one that matters; empty if there is none."""
    try:
        before = dict(flat(load_spec(path).model_dump(mode="json")))
    except LeapcoreError as error:
        return f"a spec that cannot be read ({error.cause})"
    now = dict(flat(spec.model_dump(mode="json")))
    for key in {**before, **now}:
        free = any(key == some or key.startswith(f"{some}.") for some in _FREE)
        if before.get(key) != now.get(key) and not free:
            return f"{key}: {before.get(key)}, not {now.get(key)}"
    return ""
