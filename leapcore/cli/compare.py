"""``leapcore compare``: several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leapcore.cli.output import console


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Folders of two or more runs, such as runs/*.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The page; an earlier one is replaced.")
    ] = Path("compare.html"),
) -> None:
    """Compare runs side by side.

    Each is held against the first one, in a table and on a page with their curves; finished or not.
    """
    from leapcore.report.run_comparison import read_comparison, write_comparison
    from leapcore.report.terminal import grid

    comparison = read_comparison(runs)
    for table in (comparison.table(), *comparison.settings()):
        console().print(grid(table), markup=False)
    typer.echo(write_comparison(comparison, output))
