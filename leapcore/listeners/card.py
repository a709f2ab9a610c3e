"""The model card of a run's student, written when the run ends."""

from __future__ import annotations

import warnings
from pathlib import Path

from leapcore.events import RunReport
from leapcore.hookspecs import hookimpl


class ModelCard:
    """``student/README.md``: what the student is, what it achieved and how it is loaded.

    Args:
        folder: The run's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @hookimpl
    def leapcore_run_finished(self, report: RunReport) -> None:
        """Write the card; a run whose results are safe does not end with an error for want of a card."""
        try:
            from leapcore.model_card import write_model_card
            from leapcore.report.card import Moment
            from leapcore.report.runs import Run

            run, student = Run(self._folder), self._folder / "student"
            write_model_card(run, student, Moment.end(run))
        except Exception as error:
            warnings.warn(
                f"leapcore: {self._folder}/student/README.md was not written: {error}", stacklevel=2
            )
