"""``leapcore compare``: several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leapcore.cli.common import console

if TYPE_CHECKING:
    import rich.table

    from leapcore.report.document import Table


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of runs, such as runs/NAME.")],
    output: Annotated[
        Path, typer.Option(metavar="FILE", help="The page; an earlier one is replaced.")
    ] = Path("compare.html"),
) -> None:
    """Compare runs with the first one, in a table and on a page with their curves; finished or not."""
    from leapcore.report.compare import compared, write_comparison

    found = compared(runs)
    for table in (found.table(), *found.settings()):
        console().print(_printed(table), markup=False)
    typer.echo(write_comparison(found, output))


def _printed(table: Table) -> rich.table.Table:
    """A report's table for the terminal."""
    from rich.table import Table as Printed
    from rich.text import Text

    printed = Printed()
    for index, column in enumerate(table.columns):
        printed.add_column(column, justify="left" if index < table.stubs else "right")
    for row in table.rows:
        printed.add_row(*map(Text, row))
    return printed
