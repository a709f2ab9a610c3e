"""A run's page, written when it ends."""

from __future__ import annotations

import warnings
from pathlib import Path

from leapcore.events import RunReport
from leapcore.hookspecs import hookimpl
from leapcore.processes import place


class ReportPage:
    """``report.html``: what the run achieved, finished or not.

    Args:
        folder: The run's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @hookimpl
    def leapcore_run_finished(self, report: RunReport) -> None:
        """Write the page; a run whose results are safe does not end with an error for want of a page."""
        if report.status == "failed" and place().size > 1:
            return  # a launcher soon ends whom another process left alone: what went wrong must be said first
        try:
            from leapcore.report.run_report import run_document
            from leapcore.report.runs import Run
            from leapcore.report.writing import write_page

            write_page(run_document(Run(self._folder)), self._folder)
        except Exception as error:
            warnings.warn(f"leapcore: {self._folder}/report.html was not written: {error}", stacklevel=2)
