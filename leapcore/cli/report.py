"""``leapcore report``: what a bench or a run achieved, as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A bench's folder, or a run's.")],
) -> None:
    """Write report.html and report.md, of a bench or of a run, finished or not."""
    from leapcore.report.writing import write

    written = write(folder)
    typer.echo(written.page)
    typer.echo(written.summary)
