"""``leapcore report``: what a bench or a run achieved, as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a run or of a benchmark.")],
) -> None:
    """Draw the page of a run or a benchmark.

    Finished or not: report.html and report.md are written into its folder.
    """
    from leapcore.report.writing import write

    written = write(folder)
    typer.echo(written.page)
    typer.echo(written.summary)
