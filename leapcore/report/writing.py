"""Writing a folder's report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from leapcore.errors import ReportError
from leapcore.report.bench_report import bench_document
from leapcore.report.bench_results import is_bench, read, write_rows
from leapcore.report.document import Document
from leapcore.report.files import write_report_file
from leapcore.report.markdown import markdown
from leapcore.report.page import page
from leapcore.report.run_report import run_document
from leapcore.runs.names import MARKDOWN, METRICS, PAGE, SUMMARY, is_run
from leapcore.runs.read import Run


@dataclass(frozen=True)
class Written:
    """A report.

    Attributes:
        page: The HTML file.
        summary: What it says first.
    """

    page: Path
    summary: str


def write(folder: Path) -> Written:
    """Write ``report.html`` and ``report.md`` for a bench or a run; a bench's tables of rows, too.

    Raises:
        ReportError: The folder is neither, holds nothing, or cannot be written.
    """
    document = _document(folder)
    if is_bench(folder):
        write_rows(folder)
    write_report_file(folder / MARKDOWN, markdown(document, PAGE).encode())
    return Written(write_page(document, folder), document.summary[0])


def write_page(document: Document, folder: Path) -> Path:
    """Write ``report.html`` alone."""
    return write_report_file(folder / PAGE, page(document).encode())


def _document(folder: Path) -> Document:
    if not folder.is_dir():
        raise ReportError(f"'{folder}' is no folder", "Name the folder of a bench or of a run.")
    if is_bench(folder):
        return bench_document(read(folder))
    if is_run(folder):
        return run_document(Run(folder))
    raise ReportError(
        f"folder '{folder}' holds neither a bench (matrix.json) nor a run ({METRICS} or {SUMMARY})",
        f"Name the folder of a bench or of a run. Of several runs: leapcore compare {folder}/*",
    )
