"""``leapcore bench``: run a matrix of teachers, students, methods and seeds."""

from __future__ import annotations

import fnmatch
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from leapcore.cli.arguments import Overrides
from leapcore.cli.output import console, print_line
from leapcore.errors import BenchError, SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from leapcore.bench.folder import BenchFolder
    from leapcore.bench.matrix import Cell
    from leapcore.bench.runner import Watcher

_AXES = ("teacher", "student", "method", "seed")


def bench(
    source: Annotated[str, typer.Argument(metavar="SPEC", help="The YAML file of a benchmark.")],
    set_: Overrides = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--output", "-o", metavar="DIR", help="Folder for the results; bench/<name> if not given."
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, metavar="N", help="How many cells run at a time.")] = 1,
    only: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="PATTERN", help="Run the cells with such names only, e.g. 'vit.*.leap.s0'."),
    ] = None,
    part: Annotated[
        str, typer.Option(metavar="I/N", help="Run every N-th cell only, from the I-th (0 is the first).")
    ] = "0/1",
    list_: Annotated[bool, typer.Option("--list", help="Check and list the cells; run nothing.")] = False,
    slurm: Annotated[
        bool, typer.Option("--slurm", help="Print a job array for sbatch; run nothing.")
    ] = False,
) -> None:
    """Run a matrix of teachers, students, methods and seeds.

    All cells are run that are not finished yet, and the report is drawn. Interrupted, it goes on
    where it was; several machines that see the folder can share the work.
    """
    from leapcore.bench.checks import check_models
    from leapcore.bench.folder import BenchFolder
    from leapcore.bench.matrix import cells as all_cells
    from leapcore.bench.progress import LEGEND, BenchProgress
    from leapcore.bench.slurm import script
    from leapcore.bench.spec import load_bench

    terminal, spec = console(), load_bench(source)
    cells = all_cells(spec, set_ or [])
    selected = _only(cells, only or [])
    mine = _part(selected, part)
    folder = BenchFolder(output or Path("bench") / spec.name)
    with terminal.status("checking"):
        check_models(cells)
        folder.check(cells)
        if not list_:
            folder.open(spec, source, cells)
    if slurm:
        options = [*(f"--set={one}" for one in set_ or []), *(f"--only={one}" for one in only or [])]
        command = ["leapcore", "bench", source, *options, f"--jobs={jobs}", f"--output={folder.path}"]
        sys.stdout.write(script(spec.name, len(selected), folder.path, command))
        return
    if list_:
        _list(terminal, folder, mine)
        return
    with BenchProgress(terminal, folder, cells, mine) as progress:
        _run(folder, cells, mine, jobs, progress)
    terminal.print(progress.table(), LEGEND)
    _close(terminal, folder, cells, mine)


def _only(cells: Sequence[Cell], patterns: Sequence[str]) -> Sequence[Cell]:
    """The cells whose names fit one of the patterns, all if there is none."""
    names = [cell.name for cell in cells]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise SpecError(
                f"--only {pattern}: no cell has such a name",
                f"Names are like {names[0]}; --list shows all.",
            )
    return [c for c in cells if not patterns or any(fnmatch.fnmatch(c.name, one) for one in patterns)]


def _part(cells: Sequence[Cell], part: str) -> Sequence[Cell]:
    first, slash, count = part.partition("/")
    if not (slash and first.isdecimal() and count.isdecimal() and int(first) < int(count)):
        raise SpecError(
            f"--part {part}: not of the form I/N, with I from 0 to N - 1",
            "Write 0/2 and 1/2 to share among two machines.",
        )
    return cells[int(first) :: int(count)]


def _list(terminal: Console, folder: BenchFolder, cells: Sequence[Cell]) -> None:
    """How many cells there are of what, and how far each is."""
    from leapcore.report.numbers import counted

    axes = (len({getattr(cell, axis) for cell in cells}) for axis in _AXES)
    sizes = " × ".join(counted(size, axis) for size, axis in zip(axes, _AXES, strict=True))
    print_line(terminal, f"{counted(len(cells), 'cell')} of {sizes}")
    for cell in cells:
        print_line(terminal, f"  {cell.name}: {folder.state(cell)}")


def _run(
    folder: BenchFolder, cells: Sequence[Cell], mine: Sequence[Cell], jobs: int, watcher: Watcher
) -> None:
    """Run what is left; whatever ends that, the rows are written."""
    from leapcore.bench.results import write_rows
    from leapcore.bench.runner import Runner
    from leapcore.train.signals import raise_at_sigterm

    raise_at_sigterm()
    try:
        Runner(folder, jobs, watcher, _gpus()).run(mine)
    finally:
        write_rows(folder.path)


def _gpus() -> list[str]:
    """This machine's GPUs that the user has not kept back."""
    import torch

    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [gpu for gpu in allowed.split(",") if gpu]
    return [str(gpu) for gpu in range(torch.cuda.device_count())]


def _close(terminal: Console, folder: BenchFolder, cells: Sequence[Cell], mine: Sequence[Cell]) -> None:
    """Draw the report; end with an error if cells failed."""
    from leapcore.bench.report import write_bench_report
    from leapcore.runs.state import State

    print_line(terminal, f"report: {write_bench_report(folder.path).page}")
    states = {cell.name: folder.state(cell) for cell in cells}
    failed = [cell.name for cell in mine if states[cell.name] is State.FAILED]
    if failed:
        raise BenchError(
            f"{len(failed)} of {len(mine)} cells failed: {', '.join(failed)}",
            f"Why is in {folder.path / 'logs'}; the same command tries them again.",
        )
    if any(state.at_work for state in states.values()):
        terminal.print("some cells are at work elsewhere; draw the report again when they have finished")
