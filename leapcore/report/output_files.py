"""The files of a report, each written whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from leapcore.errors import ReportError
from leapcore.files import write_whole
from leapcore.report.document import Document
from leapcore.report.markdown import markdown
from leapcore.report.page import page
from leapcore.runs.names import MARKDOWN, PAGE


@dataclass(frozen=True)
class WrittenReport:
    """A report in its folder.

    Attributes:
        page: The HTML file.
        summary: The report's first sentence.
    """

    page: Path
    summary: str


def write_report(document: Document, folder: Path) -> WrittenReport:
    """Write ``report.html`` and ``report.md``.

    Raises:
        ReportError: The folder cannot be written.
    """
    write_report_file(folder / MARKDOWN, markdown(document, PAGE).encode())
    return WrittenReport(write_page(document, folder / PAGE), document.summary[0])


def write_page(document: Document, path: Path) -> Path:
    """Write a document as HTML; an earlier page is replaced.

    Raises:
        ReportError: It cannot be written.
    """
    return write_report_file(path, page(document).encode())


def write_report_file(path: Path, content: bytes) -> Path:
    """Replace a file by one rename, so that nobody ever reads half of it.

    Raises:
        ReportError: It cannot be written.
    """
    try:
        write_whole(path, content)
    except OSError as error:
        raise ReportError(
            f"'{path}' cannot be written: {error}", "Free some space, or mend the folder's permissions."
        ) from error
    return path
