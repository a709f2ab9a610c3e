"""``leapcore report``: what a bench or a run achieved, as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from leapcore.report.output_files import WrittenReport


def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a run or of a benchmark.")],
) -> None:
    """Draw the page of a run or a benchmark.

    Finished or not: report.html and report.md are written into its folder.
    """
    written = _written(folder)
    typer.echo(written.page)
    typer.echo(written.summary)


def _written(folder: Path) -> WrittenReport:
    from leapcore.bench.report import write_bench_report
    from leapcore.errors import ReportError
    from leapcore.report.run_report import write_run_report
    from leapcore.runs.names import METRICS, SUMMARY, is_bench, is_run

    if not folder.is_dir():
        raise ReportError(f"'{folder}' is no folder", "Name the folder of a bench or of a run.")
    if is_bench(folder):
        return write_bench_report(folder)
    if is_run(folder):
        return write_run_report(folder)
    raise ReportError(
        f"folder '{folder}' holds neither a bench (matrix.json) nor a run ({METRICS} or {SUMMARY})",
        f"Name the folder of a bench or of a run. Of several runs: leapcore compare {folder}/*",
    )
