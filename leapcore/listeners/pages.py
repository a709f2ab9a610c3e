"""What people read of a run, written when it ends: its page, and its student's model card."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from leapcore.distributed.place import place
from leapcore.plugins.events import RunReport
from leapcore.plugins.hooks import hookimpl
from leapcore.runs.names import PAGE, STUDENT

logger = logging.getLogger(__name__)


class _InFolder:
    """Writes into a run's folder.

    Args:
        folder: The run's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder


class ReportPage(_InFolder):
    """``report.html``: what the run achieved, finished or not."""

    @hookimpl
    def leapcore_run_finished(self, report: RunReport) -> None:
        """Write the page."""
        if report.status == "failed" and place().size > 1:
            return  # a launcher soon ends whom another process left alone: first the error must be printed
        with _only_warned(self._folder / PAGE):
            from leapcore.report.output_files import write_page
            from leapcore.report.run_report import run_document
            from leapcore.runs.reader import Run

            write_page(run_document(Run(self._folder)), self._folder / PAGE)


class ModelCard(_InFolder):
    """``student/README.md``: what the student is, what it achieved and how it is loaded."""

    @hookimpl
    def leapcore_run_finished(self, report: RunReport) -> None:
        """Write the card."""
        with _only_warned(self._folder / STUDENT / "README.md"):
            from leapcore.export.model_card import Snapshot, write_model_card
            from leapcore.runs.reader import Run

            run = Run(self._folder)
            write_model_card(run, self._folder / STUDENT, Snapshot.at_end(run))


@contextmanager
def _only_warned(path: Path) -> Iterator[None]:
    """A run whose results are safe does not end with an error for want of something to read."""
    try:
        yield
    except Exception as error:
        logger.warning("%s was not written: %s", path, error)
