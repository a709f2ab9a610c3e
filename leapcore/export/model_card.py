"""A student's model card, in its folder: what is told of it there comes from the run's own files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leapcore.files import write_whole
from leapcore.models.timm_models import published_license
from leapcore.report.card import ExportedFile, Moment, card
from leapcore.runs.reader import Run

CARD = "README.md"  # what the Hugging Face hub shows of a repository


def write_model_card(run: Run, folder: Path, moment: Moment, files: Sequence[ExportedFile] = ()) -> None:
    """Write the model card of a student.

    Args:
        run: What it comes from.
        folder: The student's.
        moment: When it was taken, and what was known of it then.
        files: Other formats that lie in the folder.

    Raises:
        OSError: It cannot be written.
    """
    licences = {
        model.name: licence
        for model in (*run.teacher_models.values(), run.student_model)
        if model.weights == "pretrained" and (licence := published_license(model.name))
    }
    write_whole(folder / CARD, card(run, folder, moment, files, licences))
